"""Who is dialled, when, and how often."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from peer import discovery as discovery_module
from peer.addresses import PeerAddress
from peer.discovery import Candidate
from protocols.limits import DIAL_BACKOFF_MAX_S, DIAL_BACKOFF_S
from tests.support.members import TestMesh, TestPeer, key_of, peer_of, running
from tests.support.memory import MemoryNetwork

MESH = TestMesh()


def member(network: MemoryNetwork, number: int) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number)))


def members(network: MemoryNetwork, count: int) -> list[TestPeer]:
    return [member(network, number) for number in range(1, count + 1)]


def address_of(peer: TestPeer) -> PeerAddress:
    return PeerAddress(peer.peer_id, peer.transport.addresses[0])


def candidate(peer: TestPeer, other: TestPeer) -> Candidate:
    return next(found for found in peer.discovery if found.peer_id == other.peer_id)


async def test_a_configured_address_is_dialled_and_greeted(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(address_of(two), "configuration")

    async with running(one, two):
        await trio.sleep(1)

        assert one.has_met(two)
        assert two.has_met(one)
        assert candidate(one, two).last_error is None


async def test_through_one_common_neighbour_everybody_meets_everybody(autojump_clock: MockClock):
    network = MemoryNetwork(delay_s=(0.001, 0.05))
    first, *others = members(network, 6)
    for other in others:
        other.discovery.add(address_of(first), "ticket")

    async with running(first, *others):
        await trio.sleep(30)

        for one in (first, *others):
            for two in (first, *others):
                assert one is two or one.has_met(two)


async def test_a_peer_that_comes_up_later_is_found(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(address_of(two), "configuration")

    async with running(one):
        await trio.sleep(300)
        error = candidate(one, two).last_error
        assert error is not None
        assert error.code == "peer-unreachable"
        async with running(two):
            await trio.sleep(DIAL_BACKOFF_MAX_S + 1)

            assert one.has_met(two)


async def test_an_unreachable_peer_is_dialled_ever_more_seldom(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(address_of(two), "configuration")
    dials: list[float] = []
    dial = one.transport.dial

    async def noted(peer_id: str, addresses: list[str]) -> None:
        dials.append(trio.current_time())
        await dial(peer_id, addresses)

    one.transport.dial = noted

    async with running(one):
        await trio.sleep(600)

    gaps = [later - earlier for earlier, later in pairwise(dials)]
    assert DIAL_BACKOFF_S / 2 <= gaps[0] <= DIAL_BACKOFF_S
    assert all(DIAL_BACKOFF_MAX_S / 2 <= gap <= DIAL_BACKOFF_MAX_S for gap in gaps[6:])
    assert len(set(gaps[6:])) > 1


async def test_a_broken_connection_is_restored(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(address_of(two), "ticket")

    async with running(one, two):
        await trio.sleep(60)
        network.reset(one.peer_id, two.peer_id)
        await trio.sleep(2 * DIAL_BACKOFF_S)

        assert one.has_met(two)


async def test_a_partition_that_heals_is_noticed_within_a_minute(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(address_of(two), "ticket")

    async with running(one, two):
        await trio.sleep(60)
        network.partition(one.peer_id, two.peer_id)
        await trio.sleep(1_800)
        assert not one.has_met(two)
        network.heal(one.peer_id, two.peer_id)
        await trio.sleep(DIAL_BACKOFF_MAX_S + 10)

        assert one.has_met(two)
        assert two.has_met(one)


async def test_a_peer_that_refuses_us_is_asked_again_only_after_a_minute(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one = member(network, 1)
    stranger = TestMesh(root=key_of(50), admitter=key_of(51)).membership(key_of(2))
    two = peer_of(network, 2, stranger)
    one.discovery.add(address_of(two), "configuration")

    async with running(two, one):
        await trio.sleep(DIAL_BACKOFF_MAX_S - 5)
        found = candidate(one, two)

        assert found.failures == 1
        assert found.last_error is not None
        assert found.last_error.code == "wrong-mesh"


async def test_how_a_peer_was_found_is_remembered_by_address(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)
    one.discovery.add(PeerAddress(two.peer_id, "/ip4/192.0.2.7/tcp/1"), "mdns")
    one.discovery.add(address_of(two), "ticket")
    one.discovery.add(address_of(two), "mdns")

    found = candidate(one, two)

    assert found.sources == {
        "/ip4/192.0.2.7/tcp/1": "mdns",
        two.transport.addresses[0]: "ticket",
    }
    assert found.addresses[0] == two.transport.addresses[0]


async def test_our_own_address_is_no_candidate(autojump_clock: MockClock):
    one = member(MemoryNetwork(), 1)

    one.discovery.add(address_of(one), "configuration")

    assert list(one.discovery) == []


async def test_a_peer_that_nobody_chose_is_given_up_and_a_chosen_one_never(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two, three = members(network, 3)
    one.discovery.add(address_of(two), "configuration")
    one.discovery.add(address_of(three), "mdns")

    async with running(one):
        await trio.sleep(3_600)

        assert [found.peer_id for found in one.discovery] == [two.peer_id]


async def test_addresses_of_an_advert_are_forgotten_when_it_expires(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = members(network, 2)

    async with running(one):
        async with running(two):
            two.discovery.add(address_of(one), "ticket")
            await trio.sleep(10)
            assert one.has_met(two)
        assert candidate(one, two).sources
        await trio.sleep(2 * 3_600)

        assert list(one.discovery) == []


async def test_no_more_connections_are_sought_than_the_limit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(discovery_module, "MAX_NEIGHBOURS", 3)
    network = MemoryNetwork()
    one, *others = members(network, 6)
    for other in others:
        one.discovery.add(address_of(other), "configuration")
        other.seeks = False

    async with running(one, *others):
        await trio.sleep(120)

        assert len(one.transport.connected()) == 3


async def test_strangers_without_a_hello_take_no_neighbours_place(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(discovery_module, "MAX_NEIGHBOURS", 2)
    network = MemoryNetwork()
    one, two, *strangers = members(network, 6)
    async with running(one):
        for stranger in strangers:  # they connect, and never say hello
            stranger.seeks = False

        async with AsyncExitStack() as stack:
            for stranger in strangers:
                nursery = await stack.enter_async_context(trio.open_nursery())
                await nursery.start(stranger.transport.run)
                await stranger.transport.dial(one.peer_id, one.transport.addresses)
                stack.callback(nursery.cancel_scope.cancel)
            one.discovery.add(address_of(two), "configuration")
            async with running(two):
                await trio.sleep(10)

                assert len(one.transport.connected()) == len(strangers) + 1
                assert one.has_met(two)
