"""A session is opened with whoever can be reached, and begins with a hello."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from node import sessions as sessions_module
from node.ledger import JobLedger
from node.sessions import Sessions
from peer.capture import Origin
from protocols.errors import PeerUnreachableError
from protocols.limits import DIAL_BACKOFF_MAX_S
from tests.support.members import TestMesh, TestPeer, effects_of, key_of, peer_of, running
from tests.support.memory import MemoryNetwork
from tests.support.records import MemoryRecorder

MESH = TestMesh()


def member(network: MemoryNetwork, number: int) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number)))


def waiting(network: MemoryNetwork, number: int) -> TestPeer:
    """A member that serves sessions and dials nobody."""
    peer = member(network, number)
    peer.seeks = False
    sessions_of(peer)
    return peer


def sessions_of(peer: TestPeer) -> Sessions:
    effects = effects_of()
    ledger = JobLedger(
        MemoryRecorder(peer.identity.key, effects), Origin("covey-node", "0"), effects
    )
    return Sessions(peer.transport, peer.greeter.connect, peer.directory, ledger)


@asynccontextmanager
async def started(sessions: Sessions) -> AsyncGenerator[Sessions]:
    async with trio.open_nursery() as nursery:
        await nursery.start(sessions.run)
        yield sessions
        nursery.cancel_scope.cancel()


async def test_a_known_peer_without_a_connection_is_dialled_and_greeted_at_once(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two = member(network, 1), waiting(network, 2)

    async with running(one, two), started(sessions_of(one)) as sessions:
        await one.connect(two)
        network.reset(one.peer_id, two.peer_id)
        link = await sessions.open(two.peer_id)

        assert link.is_open
        assert one.has_met(two)
        assert two.has_met(one)


async def test_a_restarted_peer_gets_a_session_although_it_is_hardly_dialled_any_more(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one, two, again = member(network, 1), waiting(network, 2), waiting(network, 2)
    again.transport.addresses[:] = two.transport.addresses

    async with running(one), started(sessions_of(one)) as sessions:
        async with running(two):
            await one.connect(two)
        await trio.sleep(10 * DIAL_BACKOFF_MAX_S)
        async with running(again):
            back_at = trio.current_time()
            link = await sessions.open(again.peer_id)

            assert link.is_open
            assert trio.current_time() - back_at < 1
            assert one.has_met(again)


async def test_a_peer_that_refuses_our_hello_gets_no_session_and_no_connection(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    one = member(network, 1)
    stranger = peer_of(network, 2, TestMesh(root=key_of(50)).membership(key_of(2)))
    one.seeks = stranger.seeks = False
    addresses = tuple(stranger.transport.addresses)
    one.directory.met(stranger.peer_id, MESH.membership(key_of(2)), addresses)

    async with running(one, stranger), started(sessions_of(one)) as sessions:
        with pytest.raises(PeerUnreachableError, match="another mesh"):
            await sessions.open(stranger.peer_id)

        assert not one.transport.connected()


async def test_of_many_workers_used_in_turn_each_leaves_no_connection_behind(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 2)
    monkeypatch.setattr(sessions_module, "CONNECTIONS_KEPT", 3)
    network = MemoryNetwork()
    one, *others = member(network, 1), *(waiting(network, number) for number in range(2, 9))
    one.seeks = False

    async with running(one, *others), started(sessions_of(one)) as sessions:
        for other in others:
            one.directory.met(other.peer_id, other.identity.member, (*other.transport.addresses,))
            await sessions.open(other.peer_id)
            await trio.sleep(1)

        assert sessions.open_count() == 2
        assert len(one.transport.connected()) == 3
        assert one.has_met(others[-1])
