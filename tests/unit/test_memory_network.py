"""The in-memory network's own promises: faults, seeds, virtual time. What it shares with the real
one is in the contract test.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from protocols.errors import PeerUnreachableError, StreamLostError
from protocols.limits import PEER_SILENCE_S
from tests.support.memory import MemoryNetwork, MemoryTransport
from tests.support.transports import connect_admitted, echo, key, running

ECHO = "/test/echo/1"


def two_peers(network: MemoryNetwork) -> tuple[MemoryTransport, MemoryTransport]:
    one, two = network.transport(key(1)), network.transport(key(2))
    two.serve(ECHO, echo)
    return one, two


async def test_a_frozen_peer_is_dropped_after_the_silence_limit(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = two_peers(network)

    async with running(one, two):
        await connect_admitted(one, two)
        stream = await one.open_stream(two.peer_id, ECHO)
        network.freeze(two.peer_id)
        frozen_at = trio.current_time()
        await stream.send(b"unheard")
        with pytest.raises(StreamLostError):
            await stream.receive()

        assert trio.current_time() - frozen_at == pytest.approx(PEER_SILENCE_S)
        assert one.connected() == two.connected() == set()


async def test_a_short_partition_delays_and_loses_nothing(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = two_peers(network)

    async with running(one, two):
        await connect_admitted(one, two)
        stream = await one.open_stream(two.peer_id, ECHO)
        network.partition(one.peer_id, two.peer_id)
        await stream.send(b"late")
        await trio.sleep(PEER_SILENCE_S / 2)
        network.heal(one.peer_id, two.peer_id)

        assert await stream.receive() == b"late"


async def test_partitioned_peers_cannot_dial_and_healed_ones_can(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = two_peers(network)

    async with running(one, two):
        network.partition(one.peer_id, two.peer_id)
        with pytest.raises(PeerUnreachableError):
            await one.dial(two.peer_id, two.addresses)
        network.heal(one.peer_id, two.peer_id)

        await one.dial(two.peer_id, two.addresses)


async def test_a_reset_loses_what_is_under_way(autojump_clock: MockClock):
    network = MemoryNetwork(delay_s=(0.1, 0.1))
    one, two = two_peers(network)

    async with running(one, two):
        await connect_admitted(one, two)
        stream = await one.open_stream(two.peer_id, ECHO)
        await stream.send(b"under way")
        network.reset(one.peer_id, two.peer_id)

        with pytest.raises(StreamLostError):
            await stream.receive()
        assert not one.connected()


async def test_equal_seeds_give_equal_delays(autojump_clock: MockClock):
    async def round_trips(seed: int) -> list[float]:
        network = MemoryNetwork(seed=seed, delay_s=(0.01, 0.2))
        one, two = two_peers(network)
        times: list[float] = []
        async with running(one, two):
            await connect_admitted(one, two)
            stream = await one.open_stream(two.peer_id, ECHO)
            for _ in range(5):
                start = trio.current_time()
                await stream.send(b"x")
                await stream.receive()
                times.append(round(trio.current_time() - start, 6))
        return times

    assert await round_trips(7) == await round_trips(7)
    assert await round_trips(7) != await round_trips(8)
