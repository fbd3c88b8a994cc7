"""A peer that speaks the protocols and breaks their rules."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from protocols.keys import SigningKey
from protocols.transport import negotiation
from protocols.transport.addresses import TcpAddress
from protocols.transport.channel import RawChannel, SecureChannel
from protocols.transport.upgrade import libp2p_keys, upgrade_outbound
from protocols.transport.yamux import VERSION, Flag, Kind

_HEADER = struct.Struct("!BBHII")


@asynccontextmanager
async def tcp(address: str) -> AsyncGenerator[RawChannel]:
    """A bare connection with whoever listens there."""
    target = TcpAddress.parse(address)
    raw = RawChannel(await trio.open_tcp_stream(target.host, target.port), is_initiator=True)
    try:
        yield raw
    finally:
        with trio.CancelScope(shield=True):
            await raw._stream.aclose()


@asynccontextmanager
async def noise(address: str, key: SigningKey, expected: str) -> AsyncGenerator[SecureChannel]:
    """A connection after its handshakes, with no muxer on our side."""
    async with tcp(address) as raw:
        yield await upgrade_outbound(raw, libp2p_keys(key), expected)


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(VERSION, kind, flags, stream_id, len(body)) + body


class BareStream:
    """Stream 1 of a bare connection, opened by us, on which windows are ignored."""

    def __init__(self, channel: SecureChannel) -> None:
        self._channel = channel
        self._inbox = b""

    async def open(self, protocol: str) -> None:
        await self._channel.write(frame(Kind.WINDOW, Flag.SYN, 1))
        assert await negotiation.propose(self, protocol)

    async def write(self, payload: bytes) -> None:
        await self._channel.write(frame(Kind.DATA, Flag.NONE, 1, payload))

    async def read(self, n: int) -> bytes:
        while not self._inbox:
            header = await self._exactly(_HEADER.size)
            _, kind, _, _, length = _HEADER.unpack(header)
            if kind == Kind.DATA:
                self._inbox = await self._exactly(length)
        taken, self._inbox = self._inbox[:n], self._inbox[n:]
        return taken

    async def _exactly(self, n: int) -> bytes:
        received = b""
        while len(received) < n:
            received += await self._channel.read(n - len(received))
        return received
