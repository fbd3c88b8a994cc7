"""Peers on a network, real or in memory, for tests that run on both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from protocols.keys import SigningKey
from protocols.transport import Stream, Transport, open_transport
from tests.support.memory import MemoryNetwork

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
OpenTransport = Callable[[SigningKey], Transport]


def key(number: int) -> SigningKey:
    return SigningKey.from_seed(bytes([number]) * 32)


def libp2p(signing_key: SigningKey) -> Transport:
    return open_transport(signing_key, [LOOPBACK])


def memory() -> OpenTransport:
    return MemoryNetwork().transport


@asynccontextmanager
async def running(*transports: Transport) -> AsyncGenerator[None]:
    """Run transports until the block ends."""
    async with trio.open_nursery() as nursery:
        for transport in transports:
            await nursery.start(transport.run)
        yield
        nursery.cancel_scope.cancel()


async def connect(one: Transport, other: Transport) -> None:
    """Connect two running transports, and wait until both sides know."""
    await one.dial(other.peer_id, other.addresses)
    await until(lambda: one.peer_id in other.connected())


async def connect_admitted(one: Transport, other: Transport) -> None:
    await connect(one, other)
    one.admit(other.peer_id)
    other.admit(one.peer_id)


async def echo(stream: Stream) -> None:
    """Send every frame back, then finish."""
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)
    await stream.finish()


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for something that another task does."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - conditions of several tasks have no one event
            await trio.sleep(0.005)
