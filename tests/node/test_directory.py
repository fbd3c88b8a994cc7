"""What a peer remembers of others, and for how long; and how adverts travel."""

from __future__ import annotations

from itertools import permutations

import pytest
import trio
from trio.testing import MockClock

from peer import directory as directory_module
from peer.directory import Directory
from protocols.errors import RemoteProtocolError
from protocols.hello import Standing
from protocols.limits import (
    ADVERT_LIFETIME_S,
    ADVERT_OVERDUE_S,
    ADVERT_PERIOD_S,
    ADVERTS_PER_S_PER_PEER,
)
from protocols.membership import advert_topic
from tests.support.members import (
    DAY_US,
    NOW_US,
    Clock,
    TestMesh,
    effects_of,
    key_of,
    peer_of,
    running,
)
from tests.support.memory import MemoryNetwork

MESH = TestMesh()
AUTHOR = key_of(2)


def empty(clock: Clock | None = None) -> Directory:
    return Directory(MESH.root.public, key_of(1).peer_id, effects_of(clock=clock))


def order_of(directory: Directory) -> tuple[int, int] | None:
    entry = directory.get(AUTHOR.peer_id)
    return entry.advert.order if entry and entry.advert else None


async def test_the_latest_advert_wins_whatever_order_they_arrive_in(autojump_clock: MockClock):
    adverts = [MESH.advert(AUTHOR, boot=b, sequence=s) for b, s in ((1, 1), (1, 9), (2, 1))]

    for arrival in permutations(adverts):
        directory = empty()
        for signed in (*arrival, *arrival):
            directory.learn(signed)

        assert order_of(directory) == (2, 1)


async def test_an_advert_is_news_once(autojump_clock: MockClock):
    directory = empty()

    assert directory.learn(MESH.advert(AUTHOR))
    assert not directory.learn(MESH.advert(AUTHOR))


async def test_an_advert_lives_thirty_minutes_from_its_receipt(autojump_clock: MockClock):
    directory = empty()
    directory.learn(MESH.advert(AUTHOR))

    await trio.sleep(ADVERT_LIFETIME_S - 1)
    assert [entry.peer_id for entry in directory.workers()] == [AUTHOR.peer_id]
    await trio.sleep(2)

    assert directory.workers() == []
    assert list(directory.relayed_adverts(to=key_of(3).peer_id)) == []


async def test_a_peer_is_overdue_when_its_next_advert_does_not_come(autojump_clock: MockClock):
    directory = empty()
    directory.learn(MESH.advert(AUTHOR, sequence=1))
    entry = directory.get(AUTHOR.peer_id)
    assert entry is not None

    await trio.sleep(ADVERT_PERIOD_S)
    assert not entry.is_overdue
    directory.learn(MESH.advert(AUTHOR, sequence=2))
    await trio.sleep(ADVERT_OVERDUE_S - 1)
    assert not entry.is_overdue
    await trio.sleep(2)
    assert entry.is_overdue


async def test_an_advert_that_was_long_on_its_way_is_overdue_as_early(autojump_clock: MockClock):
    directory = empty()
    age_ms = (ADVERT_OVERDUE_S + 1) * 1_000
    directory.learn(MESH.advert(AUTHOR), remaining_ms=ADVERT_LIFETIME_S * 1_000 - age_ms)
    entry = directory.get(AUTHOR.peer_id)

    assert entry is not None
    assert entry.is_overdue


async def test_a_peer_that_is_connected_or_was_lately_is_not_overdue(autojump_clock: MockClock):
    directory = empty()
    directory.learn(MESH.advert(AUTHOR))
    entry = directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR, "worker"), ())

    await trio.sleep(ADVERT_OVERDUE_S + 1)
    assert not entry.is_overdue
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR, "worker"), ())
    directory.lost(AUTHOR.peer_id)
    assert not entry.is_overdue
    await trio.sleep(ADVERT_OVERDUE_S + 1)
    assert entry.is_overdue


async def test_an_expired_advert_does_not_come_back_to_life(autojump_clock: MockClock):
    directory = empty()
    directory.learn(MESH.advert(AUTHOR))
    await trio.sleep(ADVERT_LIFETIME_S + 1)

    assert not directory.learn(MESH.advert(AUTHOR))
    assert order_of(directory) is None


async def test_our_own_advert_is_only_taken_from_ourselves(autojump_clock: MockClock):
    directory = empty()

    assert not directory.learn(MESH.advert(key_of(1)))
    directory.advertise(MESH.advert(key_of(1)))

    assert [entry.is_self for entry in directory.workers()] == [True]


async def test_an_untrusted_advert_leaves_no_trace(autojump_clock: MockClock):
    directory = empty()
    stranger = TestMesh(root=key_of(50), admitter=key_of(51))

    with pytest.raises(RemoteProtocolError):
        directory.learn(stranger.advert(AUTHOR))

    assert len(directory) == 0


async def test_roles_end_with_the_certificate(autojump_clock: MockClock):
    clock = Clock()
    directory = empty(clock)
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR, "submitter"), ())
    assert directory.may(AUTHOR.peer_id, "/covey/session/1")

    clock.now_us = NOW_US + 31 * DAY_US

    assert directory.roles(AUTHOR.peer_id) == ()
    assert not directory.may(AUTHOR.peer_id, "/covey/session/1")


async def test_a_later_certificate_replaces_an_earlier_one_and_never_the_reverse(
    autojump_clock: MockClock,
):
    directory = empty()
    older = MESH.membership(AUTHOR, "worker")
    newer = MESH.membership(AUTHOR, "observer", now_us=NOW_US + 1)

    for shown in (older, newer, older):
        directory.met(AUTHOR.peer_id, shown, ())

    assert directory.roles(AUTHOR.peer_id) == ("observer",)


async def test_nobody_is_allowed_anything_whom_we_do_not_know(autojump_clock: MockClock):
    assert not empty().may(AUTHOR.peer_id, "/covey/feed/1")


async def test_the_furthest_place_seen_is_remembered_by_its_parts(autojump_clock: MockClock):
    directory = empty()
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR), ())

    directory.saw(AUTHOR.peer_id, Standing(5, 1, 90))
    directory.saw(AUTHOR.peer_id, Standing(3, 2, 4))

    assert directory.standing_of(AUTHOR.peer_id) == Standing(5, 2, 4)
    assert directory.standing_of(key_of(9).peer_id) == Standing()


async def test_addresses_of_a_peer_that_is_gone_are_forgotten_with_its_advert(
    autojump_clock: MockClock,
):
    directory = empty()
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR), ("/ip4/192.0.2.1/tcp/1",))
    entry = directory.get(AUTHOR.peer_id)
    assert entry is not None

    directory.lost(AUTHOR.peer_id)
    assert entry.addresses == ("/ip4/192.0.2.1/tcp/1",)
    await trio.sleep(ADVERT_LIFETIME_S + 1)

    assert entry.addresses == ()


async def test_a_full_directory_forgets_whom_it_only_heard_of(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(directory_module, "MAX_DIRECTORY_PEERS", 3)
    directory = empty()
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR), ())
    for number in range(10, 20):
        directory.learn(MESH.advert(key_of(number)))
        await trio.sleep(1)

    known = {entry.peer_id for entry in directory}

    assert known == {AUTHOR.peer_id, key_of(18).peer_id, key_of(19).peer_id}


async def test_a_directory_full_of_connected_peers_takes_nobody_else(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(directory_module, "MAX_DIRECTORY_PEERS", 1)
    directory = empty()
    directory.met(AUTHOR.peer_id, MESH.membership(AUTHOR), ())

    with pytest.raises(RemoteProtocolError) as caught:
        directory.learn(MESH.advert(key_of(3)))

    assert caught.value.code == "directory-full"


async def test_gossip_brings_an_advert_to_peers_that_never_meet_its_author(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    line = [peer_of(network, n, MESH.membership(key_of(n))) for n in (1, 2, 3)]
    one, two, three = line
    for peer in line:  # a dial loop would connect the two ends
        peer.seeks = False

    async with running(*line):
        await one.connect(two)
        await two.connect(three)
        await trio.sleep(5)

        assert one.knows(three)
        assert three.knows(one)
        assert not one.has_met(three)


async def test_a_change_is_published_soon_and_a_burst_of_changes_once(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = (peer_of(network, n, MESH.membership(key_of(n))) for n in (1, 2))

    async with running(one, two):
        await one.connect(two)
        await trio.sleep(5)
        before = sequence_at(two.directory, one.peer_id)
        for _ in range(20):
            one.advertiser.refresh()
        await trio.sleep(5)

        assert sequence_at(two.directory, one.peer_id) == before + 1


async def test_adverts_are_published_again_before_they_expire(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = (peer_of(network, n, MESH.membership(key_of(n))) for n in (1, 2))

    async with running(one, two):
        await one.connect(two)
        await trio.sleep(10 * ADVERT_LIFETIME_S)

        assert two.knows(one)
        assert sequence_at(two.directory, one.peer_id) >= 10 * ADVERT_LIFETIME_S // ADVERT_PERIOD_S


def sequence_at(directory: Directory, author: str) -> int:
    entry = directory.get(author)
    assert entry is not None
    assert entry.advert is not None
    return entry.advert.sequence


async def test_gossip_that_is_no_trusted_advert_is_dropped_without_an_exception(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one = peer_of(network, 1, MESH.membership(key_of(1)))
    validator, _ = one.transport._topics[advert_topic(MESH.root.public)]
    stale, current = (MESH.advert(AUTHOR, sequence=n) for n in (1, 2))
    foreign = TestMesh(root=key_of(50), admitter=key_of(51)).advert(AUTHOR)
    one.directory.learn(current)

    def verdict(payload: bytes) -> bool:
        return validator(key_of(3).peer_id, payload)

    assert not verdict(b"")
    assert not verdict(b"\xff" * 100)
    assert not verdict(bytes(9_000))
    assert not verdict(stale.encode())
    assert not verdict(foreign.encode())
    assert verdict(current.encode())
    assert verdict(MESH.advert(AUTHOR, sequence=3).encode())


async def test_a_neighbour_that_floods_is_not_looked_at(autojump_clock: MockClock):
    network = MemoryNetwork()
    one = peer_of(network, 1, MESH.membership(key_of(1)))
    validator, _ = one.transport._topics[advert_topic(MESH.root.public)]
    advert = MESH.advert(AUTHOR).encode()

    verdicts = [validator(key_of(3).peer_id, advert) for _ in range(3 * ADVERTS_PER_S_PER_PEER)]

    assert sum(verdicts) == ADVERTS_PER_S_PER_PEER
    assert validator(key_of(4).peer_id, advert)
