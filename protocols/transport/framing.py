"""Frames on a byte stream: ``u32 length | payload``, and an explicit end: a zero length and the
SHA-256 over all payloads.

A connection that breaks looks like a clean end on libp2p streams, so only the end marker ends a
stream; its digest shows that the reader saw what the sender meant. Pure: bytes in, frames out.
"""

from __future__ import annotations

import hashlib
from collections import deque

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_FRAME_BYTES
from protocols.wire import LENGTH

_END_BYTES = LENGTH.size + hashlib.sha256().digest_size


class FrameEncoder:
    """The sending direction of one stream."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def encode(self, frame: bytes) -> bytes:
        """Return the frame as it goes on the wire, and count it into the digest."""
        if not 0 < len(frame) <= MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"a frame must have 1 to {MAX_FRAME_BYTES} bytes, not {len(frame)}", got=len(frame)
            )
        self._digest.update(frame)
        return LENGTH.pack(len(frame)) + frame

    def end(self) -> bytes:
        """Return the end marker."""
        return LENGTH.pack(0) + self._digest.digest()


class FrameDecoder:
    """The receiving direction of one stream: ``feed`` it bytes, take whole frames from ``frames``.

    Holds at most one unfinished frame besides what one ``feed`` completed. Raises
    ``RemoteProtocolError`` on an oversized frame, a wrong digest, or bytes after the end; it is
    then of no more use.
    """

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.is_ended = False
        self._buffer = bytearray()
        self._digest = hashlib.sha256()

    def feed(self, received: bytes) -> None:
        """Take in bytes as they came."""
        if self.is_ended and received:
            raise RemoteProtocolError("bytes after the end of a stream")
        self._buffer += received
        offset = 0
        while not self.is_ended and (taken := self._take_one(offset)):
            offset += taken
        del self._buffer[:offset]
        if self.is_ended and self._buffer:
            raise RemoteProtocolError("bytes after the end of a stream")

    def _take_one(self, offset: int) -> int:
        """Take the frame or end marker at ``offset``; return its size, or 0 while it is not
        complete.
        """
        if len(self._buffer) - offset < LENGTH.size:
            return 0
        (length,) = LENGTH.unpack_from(self._buffer, offset)
        if length > MAX_FRAME_BYTES:
            raise RemoteProtocolError(
                f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}", got=length
            )
        size = LENGTH.size + length if length else _END_BYTES
        if len(self._buffer) - offset < size:
            return 0
        body = bytes(self._buffer[offset + LENGTH.size : offset + size])
        if length:
            self._digest.update(body)
            self.frames.append(body)
        else:
            self._check_end(body)
        return size

    def _check_end(self, digest: bytes) -> None:
        if digest != self._digest.digest():
            raise RemoteProtocolError("a stream's end marker does not match its frames")
        self.is_ended = True
