"""Figures ``transport_*``: what our transport costs in CPU beside a stock py-libp2p host.

Two processes on loopback, in turns: the same work over our transport and over a stock host with
Noise, yamux and the same frames (but without our digest). A value is the CPU time of both processes
divided by two, in ms: load on the machine hardly changes it, as it would a wall time.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from protocols.limits import MAX_FRAME_BYTES
from protocols.transport.upgrade import libp2p_keys
from tests.support.transports import LOOPBACK, echo, key, libp2p, running

ROOT: Final = Path(__file__).parents[2]
SERVER, CLIENT = key(1), key(2)
ECHO, SINK, CPU = "/bench/echo/1", "/bench/sink/1", "/bench/cpu/1"
ROUNDS: Final = 5
ROUND_TRIPS: Final = 500
OPENINGS: Final = 200
SMALL_FRAMES: Final = 4_000
LARGE_FRAMES: Final = 16
MB: Final = 1e6


class Frames(Protocol):
    """The part of a stream that the work below uses."""

    async def send(self, frame: bytes) -> None: ...
    async def receive(self) -> bytes | None: ...
    async def finish(self) -> None: ...
    async def aclose(self) -> None: ...


Open = Callable[[str], Awaitable[Frames]]
Work = Callable[[Open], Awaitable[float]]


# -- what is measured: each returns by how much its CPU time is to be divided
# ---------------------------------------------------------------------------------------------


async def round_trips(open_stream: Open) -> float:
    stream = await open_stream(ECHO)
    for _ in range(ROUND_TRIPS):
        await stream.send(bytes(256))
        await stream.receive()
    await end(stream)
    return ROUND_TRIPS


async def openings(open_stream: Open) -> float:
    """Open a stream, one round trip, close it: what a call costs without a session."""
    for _ in range(OPENINGS):
        stream = await open_stream(ECHO)
        await stream.send(bytes(256))
        await end(stream)
    return OPENINGS


async def small_frames(open_stream: Open) -> float:
    stream = await open_stream(SINK)
    for _ in range(SMALL_FRAMES):
        await stream.send(bytes(256))
    await end(stream)
    return SMALL_FRAMES


async def bulk(open_stream: Open) -> float:
    stream = await open_stream(SINK)
    for _ in range(LARGE_FRAMES):
        await stream.send(bytes(MAX_FRAME_BYTES))
    await end(stream)
    return LARGE_FRAMES * MAX_FRAME_BYTES / MB


WORK: Final[dict[str, tuple[Work, str]]] = {
    "transport_round_trip_cpu_ms": (round_trips, "ms CPU a side, 256 B on an open stream"),
    "transport_open_stream_cpu_ms": (openings, "ms CPU a side, open, one round trip, close"),
    "transport_small_frame_cpu_ms": (small_frames, "ms CPU a side, 256 B, one way, no waiting"),
    "transport_bulk_cpu_ms_per_mb": (bulk, "ms CPU a side a MB, frames of 1 MiB, one way"),
}


async def end(stream: Frames) -> None:
    await stream.finish()
    while await stream.receive() is not None:
        pass
    await stream.aclose()


# -- the serving process
# ---------------------------------------------------------------------------------------------


async def sink(stream: Frames) -> None:
    while await stream.receive() is not None:
        pass
    await stream.finish()


async def tell_cpu(stream: Frames) -> None:
    while await stream.receive() is not None:
        await stream.send(struct.pack("!d", time.process_time()))
    await stream.finish()


HANDLERS: Final[dict[str, Callable[[Any], Awaitable[None]]]] = {
    ECHO: echo,
    SINK: sink,
    CPU: tell_cpu,
}


async def serve_ours() -> None:
    transport = libp2p(SERVER)
    for protocol, handler in HANDLERS.items():
        transport.serve(protocol, handler)
    transport.on_connection(lambda peer, is_up: is_up and transport.admit(peer))
    async with running(transport):
        await tell_address(transport.addresses[0])


async def serve_stock() -> None:
    async with stock_host(SERVER) as host:
        for protocol, handler in HANDLERS.items():
            host.set_stream_handler(protocol, framed(handler))
        await tell_address(str(host.get_transport_addrs()[0]))


def framed(handler: Callable[[Any], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
    async def handle(stream: INetStream) -> None:
        try:
            await handler(StockFrames(stream))
        except StreamError:  # else it would end the process
            await stream.reset()

    return handle


async def tell_address(address: str) -> None:
    sys.stdout.write(address + "\n")
    sys.stdout.flush()
    await trio.sleep_forever()


# -- the stock side
# ---------------------------------------------------------------------------------------------


class StockFrames:
    """``u32 length | payload`` over a stock stream, a zero length at the end; few, large reads."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, frame: bytes) -> None:
        await self._stream.write(struct.pack("!I", len(frame)) + frame)

    async def receive(self) -> bytes | None:
        (length,) = struct.unpack("!I", await self._take(4))
        return await self._take(length) if length else None

    async def _take(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._buffer += await self._stream.read(64 << 10)
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    async def finish(self) -> None:
        await self._stream.write(bytes(4))
        await self._stream.close()

    async def aclose(self) -> None:
        """Nothing is left to do: both sides have finished."""


@asynccontextmanager
async def stock_host(signing_key: Any) -> AsyncGenerator[IHost]:
    keys = libp2p_keys(signing_key)
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    listen = [Multiaddr(LOOPBACK)]
    host = new_host(
        key_pair=keys,
        sec_opt={"/noise": noise},
        muxer_preference="YAMUX",
        listen_addrs=listen,
        connection_config=ConnectionConfig(low_watermark=0, min_connections=0),  # no auto-dialling
    )
    async with host.run(listen_addrs=listen):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True):
                await host.close()


# -- the measuring process
# ---------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One transport with its server, and what was measured there."""

    open_stream: Open
    clock: Frames
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WORK})

    async def measure(self, name: str) -> None:
        work, _ = WORK[name]
        before_s = await self._cpu_s()
        amount = await work(self.open_stream)
        self.values[name].append((await self._cpu_s() - before_s) / 2 / amount * 1e3)

    async def _cpu_s(self) -> float:
        """Return the CPU time that both processes have used so far."""
        await self.clock.send(b"?")
        answer = await self.clock.receive()
        assert answer is not None
        return struct.unpack("!d", answer)[0] + time.process_time()


@asynccontextmanager
async def our_side() -> AsyncGenerator[Side]:
    transport = libp2p(CLIENT)
    async with server("ours") as address, running(transport):
        await transport.dial(SERVER.peer_id, [address])

        async def open_stream(protocol: str) -> Frames:
            return await transport.open_stream(SERVER.peer_id, protocol)

        yield Side(open_stream, await open_stream(CPU))


@asynccontextmanager
async def stock_side() -> AsyncGenerator[Side]:
    server_id = ID.from_base58(SERVER.peer_id)
    async with server("stock") as address, stock_host(CLIENT) as host:
        await host.connect(PeerInfo(server_id, [Multiaddr(address)]))

        async def open_stream(protocol: str) -> Frames:
            return StockFrames(await host.new_stream(server_id, [protocol]))

        yield Side(open_stream, await open_stream(CPU))


@asynccontextmanager
async def server(kind: str) -> AsyncGenerator[str]:
    """Start the other process; yield its address."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.transport", kind]
    process = subprocess.Popen(  # noqa: ASYNC220 - a moment, before anything is measured
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield (await trio.to_thread.run_sync(process.stdout.readline)).strip()
    finally:
        process.kill()
        process.communicate()


async def compare() -> tuple[Side, Side]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(our_side())
        stock = await stack.enter_async_context(stock_side())
        for _ in range(ROUNDS + 1):
            for name in WORK:
                await ours.measure(name)
                await stock.measure(name)
    return ours, stock


def figures() -> list[dict[str, Any]]:
    """Measure and return the figures, as the bench runner prints them."""
    ours, stock = trio.run(compare)
    # The first round fills caches.
    return [_figure(name, ours.values[name][1:], stock.values[name][1:]) for name in WORK]


def _figure(name: str, values: list[float], baselines: list[float]) -> dict[str, Any]:
    value, baseline = median(values), median(baselines)
    return {
        "figure": name,
        "value": round(value, 4),
        "unit": WORK[name][1],
        "baseline": "py-libp2p 0.8.1, stock host",
        "baseline_value": round(baseline, 4),
        "ratio": round(value / baseline, 3),
        "n": len(values),
        "spread": round(max(values) - min(values), 4),
    }


if __name__ == "__main__":
    trio.run({"ours": serve_ours, "stock": serve_stock}[sys.argv[1]])
