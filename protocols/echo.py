"""``/covey/echo/1``: frames by which one side of a connection measures it, and the other plays
along.

A frame is a tag and what belongs to it. ``PING`` comes back as it is. ``SINK`` is bulk that gets no
answer; ``MARK`` asks how many bytes of it have come, and is answered by ``MARK`` with that number.
``SOURCE`` names a number of bytes, which come as ``SINK`` frames with a ``MARK`` behind them. See
docs/protocols/echo.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from protocols.errors import RemoteProtocolError
from protocols.limits import BULK_CHUNK_BYTES, MAX_ECHO_BYTES

COUNT_BYTES: Final = 8
PAYLOAD_BYTES: Final = BULK_CHUNK_BYTES - 1  # with its tag one paced chunk of the transport


class Tag(IntEnum):
    """What a frame is."""

    PING = 1
    SINK = 2
    MARK = 3
    SOURCE = 4


class Frame(NamedTuple):
    """One frame: ``number`` is a mark's or a source's, ``size`` the bytes of a payload."""

    tag: Tag
    number: int
    size: int


def ping() -> bytes:
    """Return the smallest frame that comes back."""
    return bytes((Tag.PING, 0))


def mark(count: int = 0) -> bytes:
    """Return a question how much has come, or the answer."""
    return bytes((Tag.MARK,)) + count.to_bytes(COUNT_BYTES, "big")


def source(count: int) -> bytes:
    """Return the request for ``count`` bytes."""
    return bytes((Tag.SOURCE,)) + count.to_bytes(COUNT_BYTES, "big")


def sinks(count: int) -> Iterator[bytes]:
    """Yield ``count`` bytes of bulk."""
    whole = bytes((Tag.SINK,)) + bytes(PAYLOAD_BYTES)
    for _ in range(count // PAYLOAD_BYTES):
        yield whole
    if rest := count % PAYLOAD_BYTES:
        yield whole[: rest + 1]


def read(frame: bytes) -> Frame:
    """Return what a frame says; raises ``RemoteProtocolError`` unless it is one of ours."""
    try:
        tag = Tag(frame[0])
    except (ValueError, IndexError) as error:
        raise RemoteProtocolError("a frame of the echo has no known tag") from error
    size = len(frame) - 1
    if tag in (Tag.PING, Tag.SINK):
        if size > PAYLOAD_BYTES:
            raise RemoteProtocolError(
                f"a frame of the echo has {size} bytes, over {PAYLOAD_BYTES}", got=size
            )
        return Frame(tag, 0, size)
    if size != COUNT_BYTES:
        raise RemoteProtocolError("a frame of the echo has no number", got=size)
    return Frame(tag, int.from_bytes(frame[1:], "big"), 0)


class Allowance:
    """What one stream may still carry in one direction."""

    def __init__(self, left_bytes: int = MAX_ECHO_BYTES) -> None:
        self._left_bytes = left_bytes

    def take(self, count: int) -> None:
        """Use some of it; raises ``RemoteProtocolError`` when it is not there."""
        if count > self._left_bytes:
            raise RemoteProtocolError(
                f"the echo may carry {MAX_ECHO_BYTES} bytes in each direction", got=count
            )
        self._left_bytes -= count
