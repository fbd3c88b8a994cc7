"""multistream-select: agree on one protocol by name, over anything that reads and writes bytes.

py-libp2p's own negotiation waits one round trip more, and answers before we can ask whether this
peer may have this protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from protocols.errors import RemoteProtocolError

MULTISTREAM: Final = "/multistream/1.0.0"
_REFUSAL: Final = "na"
_MAX_LINE_BYTES: Final = 1_024  # the specification's bound on a protocol name
_MAX_PROPOSALS: Final = 8  # a peer that guesses longer than this does not know what it wants


class Bytes(Protocol):
    """What is negotiated upon: ``read`` returns 1 to n bytes, or none at the end."""

    async def read(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes, or none at the end."""
        ...

    async def write(self, payload: bytes) -> None:
        """Send all of these bytes."""
        ...


class BufferedBytes(Bytes, Protocol):
    """What is answered upon."""

    @property
    def has_unread(self) -> bool:
        """Whether more bytes have come than were read."""
        ...


async def propose(channel: Bytes, protocol: str) -> bool:
    """Ask for one protocol, in one round trip; whether the other side agreed."""
    await channel.write(_line(MULTISTREAM) + _line(protocol))
    if await _read_line(channel) != MULTISTREAM:
        raise RemoteProtocolError("the peer does not speak multistream-select 1.0")
    answer = await _read_line(channel)
    if answer not in (protocol, _REFUSAL):
        raise RemoteProtocolError("the peer answered another protocol than was proposed")
    return answer == protocol


async def answer(channel: BufferedBytes, accepts: Callable[[str], Awaitable[bool]]) -> str:
    """Answer proposals until one is acceptable; return it."""
    if await _read_line(channel) != MULTISTREAM:
        raise RemoteProtocolError("the peer does not speak multistream-select 1.0")
    greeting = _line(MULTISTREAM)
    if not channel.has_unread:
        # py-libp2p's host, for one, proposes nothing until it is greeted.
        await channel.write(greeting)
        greeting = b""
    for _ in range(_MAX_PROPOSALS):
        protocol = await _read_line(channel)
        is_accepted = await accepts(protocol)
        await channel.write(greeting + _line(protocol if is_accepted else _REFUSAL))
        if is_accepted:
            return protocol
        greeting = b""
    raise RemoteProtocolError(f"the peer made {_MAX_PROPOSALS} proposals, none of them acceptable")


def _line(text: str) -> bytes:
    body = text.encode() + b"\n"
    if len(body) < 0x80:
        return bytes((len(body),)) + body
    return bytes((len(body) & 0x7F | 0x80, len(body) >> 7)) + body


async def _read_line(channel: Bytes) -> str:
    length = (await _read_exactly(channel, 1))[0]
    if length & 0x80:
        length = length & 0x7F | (await _read_exactly(channel, 1))[0] << 7
    if not 0 < length <= _MAX_LINE_BYTES:
        raise RemoteProtocolError("a multistream-select line has a bad length", got=length)
    line = await _read_exactly(channel, length)
    if line[-1:] != b"\n" or not line.isascii():
        raise RemoteProtocolError("a multistream-select line is not text")
    return line[:-1].decode()


async def _read_exactly(channel: Bytes, n: int) -> bytes:
    received = await channel.read(n)
    while len(received) < n:
        more = await channel.read(n - len(received))
        if not more:
            break
        received += more
    if len(received) < n:
        raise RemoteProtocolError("the peer hung up while agreeing on a protocol")
    return received
