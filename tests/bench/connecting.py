"""Figure ``connect_ms``: from nothing to the first answer of a peer that has proven who it is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from protocols.keys import SigningKey
from protocols.transport import open_transport
from tests.bench import echo
from tests.bench.figure import Figure, figure
from tests.bench.processes import child

CONNECTIONS = 40


def figures() -> list[Figure]:
    """Measure both, one connection after the other."""
    with child("tests.bench.echo") as server:
        ours_ms = trio.run(_ours, server.ready["addresses"])
        raw_ms = trio.run(_raw, server.ready["port"])
    return [
        figure(
            "connect_ms",
            "ms",
            ours_ms,
            n=CONNECTIONS,
            baseline="raw trio TCP",
            baseline_rounds=raw_ms,
        )
    ]


async def _ours(addresses: list[str]) -> list[float]:
    transport = open_transport(SigningKey.from_seed(b"c" * 32), ["/ip4/127.0.0.1/tcp/0"])
    peer = echo.KEY.peer_id

    async def connect() -> None:
        await transport.dial(peer, addresses)
        stream = await transport.open_stream(peer, echo.PROTOCOL)
        await stream.send(b"!")
        await stream.receive()

    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        times = await _timed(connect, lambda: transport.disconnect(peer))
        nursery.cancel_scope.cancel()
    return times


async def _raw(port: int) -> list[float]:
    async def connect() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"!")
            await stream.receive_some()

    return await _timed(connect, trio.lowlevel.checkpoint)


async def _timed(
    connect: Callable[[], Awaitable[None]], disconnect: Callable[[], Awaitable[None]]
) -> list[float]:
    times_ms: list[float] = []
    for _ in range(CONNECTIONS + 1):
        since = time.perf_counter()
        await connect()
        times_ms.append((time.perf_counter() - since) * 1e3)
        await disconnect()
        await trio.sleep(0.01)  # let the other side see the end
    return times_ms[1:]  # the first one imports and allocates
