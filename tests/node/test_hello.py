"""Two peers make sure of each other."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from protocols.errors import (
    PeerUnreachableError,
    StreamLostError,
)
from protocols.hello import Standing
from protocols.keys import PeerId
from protocols.limits import STRANGER_GRACE_S, STRANGER_PERIOD_S
from protocols.membership import HELLO_PROTOCOL
from protocols.transport import Stream
from tests.support.members import (
    TestMesh,
    TestPeer,
    key_of,
    peer_of,
    running,
)
from tests.support.memory import MemoryNetwork

MESH = TestMesh()


def member(network: MemoryNetwork, number: int, *roles: str) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number), *roles))


async def test_after_a_hello_both_have_admitted_each_other_and_know_roles_and_adverts(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1, "submitter"), member(network, 2, "worker")

    async with running(one, two):
        await one.connect(two)

        assert one.has_met(two)
        assert two.has_met(one)
        assert one.knows(two)
        assert two.knows(one)
        assert one.directory.roles(two.peer_id) == ("worker",)
        assert two.directory.may(one.peer_id, "/covey/session/1")
        assert not one.directory.may(two.peer_id, "/covey/session/1")


async def test_when_either_side_is_told_that_they_met_the_other_serves_it_already(
    autojump_clock: MockClock,
):
    network = MemoryNetwork(delay_s=(0.01, 0.2))
    one, two = member(network, 1), member(network, 2)
    told: list[bool] = []
    one.greeter.on_met(lambda peer: told.append(two.transport.is_admitted(one.peer_id)))
    two.greeter.on_met(lambda peer: told.append(one.transport.is_admitted(two.peer_id)))

    async with running(one, two):
        await one.connect(two)

    assert told == [True, True]


@pytest.mark.parametrize("seed", range(8))
async def test_two_peers_that_dial_each_other_at_once_end_with_both_admitted(
    autojump_clock: MockClock, seed: int
):
    network = MemoryNetwork(seed=seed, delay_s=(0.0, 0.1))
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, two)
            nursery.start_soon(two.connect, one)

        assert one.has_met(two)
        assert two.has_met(one)


async def test_connecting_again_says_no_second_hello(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    met: list[PeerId] = []
    two.greeter.on_met(met.append)

    async with running(one, two):
        await one.connect(two)
        await one.connect(two)

    assert met == [one.peer_id]


async def test_a_hello_brings_the_adverts_of_peers_never_met_in_both_directions(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    one.directory.learn(MESH.advert(key_of(11)))
    two.directory.learn(MESH.advert(key_of(12)))

    async with running(one, two):
        await one.connect(two)

        for peer in (one, two):
            for number in (11, 12):
                entry = peer.directory.get(key_of(number).peer_id)
                assert entry is not None
                assert entry.advert is not None
                assert not entry.is_connected


async def test_many_adverts_come_in_pages(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    for number in range(100, 420):
        two.directory.learn(MESH.advert(key_of(number)))

    async with running(one, two):
        await one.connect(two)

        assert sum(entry.advert is not None for entry in one.directory) == 322


async def test_a_relayed_advert_lives_only_as_long_as_it_had_left_at_the_relay(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    two.directory.learn(MESH.advert(key_of(11)), remaining_ms=60_000)

    async with running(one, two):
        await trio.sleep(30)
        await one.connect(two)
        entry = one.directory.get(key_of(11).peer_id)
        assert entry is not None
        assert entry.advert is not None
        await trio.sleep(31)

        assert entry.advert is None


async def test_a_dialer_that_gets_no_answer_gives_up_and_closes(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async def silence(stream: Stream) -> None:
        await trio.sleep_forever()

    two.transport.serve(HELLO_PROTOCOL, silence, before_hello=True)

    async with running(one, two):
        with pytest.raises(StreamLostError) as caught:
            await one.connect(two)

        assert caught.value.code == "hello-timeout"
        assert two.peer_id not in one.transport.connected()


async def test_a_dialer_that_is_cancelled_leaves_no_connection_without_a_hello(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async def silence(stream: Stream) -> None:
        await trio.sleep_forever()

    two.transport.serve(HELLO_PROTOCOL, silence, before_hello=True)

    async with running(one, two):
        with trio.move_on_after(1):
            await one.connect(two)

        assert two.peer_id not in one.transport.connected()


async def test_a_connection_without_a_hello_is_closed_after_a_while(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        await one.transport.dial(two.peer_id, two.transport.addresses)
        await trio.sleep(STRANGER_GRACE_S + 2 * STRANGER_PERIOD_S)

        assert one.peer_id not in two.transport.connected()


async def test_a_connection_with_a_hello_is_not(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        await one.connect(two)
        await trio.sleep(10 * STRANGER_GRACE_S)

        assert one.has_met(two)


async def test_a_lost_connection_is_no_longer_in_the_directory(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        await one.connect(two)
        network.reset(one.peer_id, two.peer_id)

        entry = one.directory.get(two.peer_id)
        assert entry is not None
        assert not entry.is_connected


@pytest.mark.parametrize("dialer_is_behind", [True, False], ids=["dialer", "acceptor"])
async def test_a_peer_that_lost_its_disk_learns_how_far_its_neighbour_saw_it(
    autojump_clock: MockClock, dialer_is_behind: bool
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    behind, neighbour = (one, two) if dialer_is_behind else (two, one)
    told: list[Standing] = []
    behind.greeter.on_behind(told.append)
    neighbour.greeter.on_behind(lambda seen: pytest.fail("this one is not behind"))
    behind.place[:] = [4, 77]

    async with running(one, two):
        await one.connect(two)
        network.reset(one.peer_id, two.peer_id)
        assert told == []
        behind.place[:] = [1, 0]
        await one.connect(two)

    assert told[0] == Standing(1, 4, 77)


async def test_an_absurd_boot_that_a_neighbour_claims_to_have_seen_is_ignored(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    told: list[Standing] = []
    one.greeter.on_behind(told.append)

    async with running(one, two):
        two.directory.learn(MESH.advert(one.identity.key, boot=1 << 40))
        await one.connect(two)

        assert one.has_met(two)

    assert told == []


async def test_an_unreachable_peer_is_told_as_such(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one):
        with pytest.raises(PeerUnreachableError):
            await one.connect(two)


async def test_a_bad_advert_on_a_page_fails_no_hello(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)
    stranger = TestMesh(root=key_of(50), admitter=key_of(51))
    foreign = stranger.advert(key_of(13))
    two.directory.learn(MESH.advert(key_of(13)))
    entry = two.directory.get(key_of(13).peer_id)
    assert entry is not None
    entry.signed_advert = foreign

    async with running(one, two):
        await one.connect(two)

        assert one.has_met(two)
        assert one.directory.get(key_of(13).peer_id) is None
