"""Two live runs of one key find out about each other; an earlier life of a key is no second one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from peer.addresses import PeerAddress
from peer.feeds import Feeds
from protocols.advert import SignedAdvert, sign_advert
from protocols.errors import CoveyError
from tests.support.feeds import effects, key, open_journal, record
from tests.support.members import TestMesh, TestPeer, effects_of, key_of, peer_of, running
from tests.support.memory import MemoryNetwork

MESH = TestMesh()
TWIN = 2


def member(network: MemoryNetwork, number: int) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number)))


def twin(network: MemoryNetwork, home: Path, boot: int, seed: int) -> TestPeer:
    """A run of peer 2 in ``home``, with its own luck at drawing lots."""
    home.mkdir()
    peer = member(network, TWIN)
    peer.identity.home = home
    peer.identity.boot = boot
    peer.instance.id = effects_of(seed).token(8)
    return peer


def dials(peer: TestPeer, *others: TestPeer) -> None:
    for other in others:
        address = other.transport.addresses[0]
        peer.discovery.add(PeerAddress(other.peer_id, address), "ticket")


@pytest.mark.parametrize("boots", [(5, 6), (6, 5), (5, 5)])
@pytest.mark.parametrize("seed", range(8))
async def test_two_runs_of_one_key_at_one_neighbour_both_stop(
    autojump_clock: MockClock, tmp_path: Path, boots: tuple[int, int], seed: int
):
    network = MemoryNetwork(seed=seed, delay_s=(0.0, 0.05))
    neighbour = member(network, 1)
    one = twin(network, tmp_path / "one", boots[0], 100 + seed)
    two = twin(network, tmp_path / "two", boots[1], 200 + seed)
    for each in (one, two):
        dials(each, neighbour)

    async with running(neighbour, one):
        await trio.sleep(60)
        assert not one.instance.is_duplicate
        async with running(two):
            await trio.sleep(120)

            assert one.instance.is_duplicate
            assert two.instance.is_duplicate


async def test_two_runs_at_different_neighbours_both_stop(
    autojump_clock: MockClock, tmp_path: Path
):
    network = MemoryNetwork(delay_s=(0.0, 0.05))
    left, right = member(network, 1), member(network, 3)
    one, two = twin(network, tmp_path / "one", 5, 1), twin(network, tmp_path / "two", 6, 2)
    for peer in (left, right):
        peer.seeks = False
    for each in (one, two):
        each.seeks = False
    async with running(left, right, one):
        await left.connect(right)
        await one.connect(left)
        await trio.sleep(30)
        async with running(two):
            await two.connect(right)
            for _ in range(40):
                await trio.sleep(5)
                for each, other in ((one, left), (two, right)):
                    if other.peer_id not in each.transport.connected():
                        with suppress(CoveyError):  # closed once more: it is tried again
                            await each.connect(other)

            assert one.instance.is_duplicate
            assert two.instance.is_duplicate


async def test_a_restart_is_no_second_instance(autojump_clock: MockClock, tmp_path: Path):
    network = MemoryNetwork()
    neighbour = member(network, 1)
    first = twin(network, tmp_path / "first", 5, 1)
    dials(first, neighbour)
    again = twin(network, tmp_path / "again", 6, 2)
    dials(again, neighbour)

    async with running(neighbour):
        async with running(first):
            await trio.sleep(60)
        async with running(again):
            await trio.sleep(600)

            assert not again.instance.is_duplicate
            assert again.has_met(neighbour)


async def test_a_backup_that_was_restored_rises_and_goes_on(
    autojump_clock: MockClock, tmp_path: Path
):
    network = MemoryNetwork()
    neighbour = member(network, 1)
    later, restored = twin(network, tmp_path / "a", 9, 1), twin(network, tmp_path / "b", 3, 2)
    for each in (later, restored):
        dials(each, neighbour)

    async with running(neighbour):
        async with running(later):
            await trio.sleep(60)
        async with running(restored):
            await trio.sleep(60)

            entry = neighbour.directory.get(restored.peer_id)
            assert not restored.instance.is_duplicate
            assert restored.identity.boot > 9
            assert entry is not None
            assert entry.advert is not None
            assert entry.advert.instance == restored.instance.id
    assert int((tmp_path / "b" / "boot").read_text()) == restored.identity.boot


async def test_nobody_can_claim_a_second_instance_of_somebody_else(
    autojump_clock: MockClock, tmp_path: Path
):
    peer = twin(MemoryNetwork(), tmp_path / "one", 5, 1)
    genuine = MESH.advert(peer.identity.key, boot=7)
    rival = advert_with(genuine, instance=b"another", rival=peer.instance.id)
    forged = SignedAdvert(
        rival.payload, bytes(64), rival.certificate, rival.issuer_certificate, rival.advert
    )
    foreign = MESH.advert(key_of(9))

    for shown in (forged, foreign):
        peer.instance.look_at(shown.encode())
    peer.instance.look_at(b"garbage")
    assert (peer.instance.is_duplicate, peer.identity.boot) == (False, 5)

    peer.instance.look_at(rival.encode())
    assert peer.instance.is_duplicate


def advert_with(signed: SignedAdvert, **changes: bytes) -> SignedAdvert:
    advert = msgspec.structs.replace(signed.advert, **changes)
    return sign_advert(key_of(TWIN), advert, MESH.membership(key_of(TWIN)))


async def test_what_is_recorded_while_two_are_alive_is_kept_and_signed_by_a_later_run(
    autojump_clock: MockClock, tmp_path: Path
):
    for is_stopped in (True, False):
        journal = open_journal(tmp_path / "journal")
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            feeds = Feeds(journal, key(1), effects())
            await nursery.start(feeds.run)
            if is_stopped:
                feeds.stop_signing()
                await feeds.append(record(key(1), 1))
            await trio.sleep(60)
            await feeds.cut_all()
            held = len(feeds.heads())
            nursery.cancel_scope.cancel()
        journal.close()

        assert held == (0 if is_stopped else 1)
