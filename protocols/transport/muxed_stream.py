"""A yamux stream: bytes in both directions with credit, half-close and reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from protocols.errors import StreamLostError
from protocols.keys import PeerId
from protocols.limits import BULK_CHUNK_BYTES, SEND_STALL_S, STREAM_WINDOW_BYTES
from protocols.transport.yamux import Flag, Kind

if TYPE_CHECKING:
    from protocols.transport.muxer import Muxer

# One DATA frame with its 12-byte header fills one Noise message of 65,519 bytes.
MAX_PIECE_BYTES: Final = BULK_CHUNK_BYTES - 64


class MuxedStream:
    """One stream of a connection; ``release`` or ``reset`` it when done, for it counts against the
    limit until then.
    """

    def __init__(self, muxer: Muxer, stream_id: int) -> None:
        self.stream_id = stream_id
        self.is_lost = False
        self._muxer = muxer
        self._inbox = bytearray()
        self._peer_finished = False
        self._receive_credit = STREAM_WINDOW_BYTES
        self._read_bytes = 0
        self._readable = trio.lowlevel.ParkingLot()
        self._send_credit = STREAM_WINDOW_BYTES
        self._finished = False
        self._creditable = trio.lowlevel.ParkingLot()

    @property
    def peer_id(self) -> PeerId:
        """The peer at the other side, as proven by the secure channel."""
        return self._muxer.peer_id

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come that were not read."""
        return bool(self._inbox)

    async def read(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes, or none after the peer's half-close; what arrived before a reset
        is still returned.
        """
        if self._inbox or self._peer_finished or self.is_lost:
            await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._peer_finished:
                return b""
            if self.is_lost:
                raise self.lost()
            await self._readable.park()
        received = bytes(self._inbox) if n >= len(self._inbox) else bytes(self._inbox[:n])
        del self._inbox[: len(received)]
        self._return_credit(len(received))
        return received

    def _return_credit(self, size: int) -> None:
        self._read_bytes += size
        if self._read_bytes >= STREAM_WINDOW_BYTES // 2 and not (
            self._peer_finished or self.is_lost
        ):
            self._receive_credit += self._read_bytes
            self._muxer.return_credit(self.stream_id, self._read_bytes)
            self._read_bytes = 0

    async def write(self, payload: bytes | memoryview) -> None:
        """Send everything, in pieces between which frames of other streams pass.

        Each piece goes out whole or not at all, also when this is cancelled.
        """
        rest = memoryview(payload)
        while rest:
            await self.wait_writable()
            rest = self.write_some(rest)

    async def wait_writable(self) -> None:
        """Wait for credit and room; raises ``StreamLostError`` when none comes for
        ``SEND_STALL_S``.
        """
        if self._send_credit <= 0 and not self.is_lost:
            with trio.move_on_after(SEND_STALL_S):
                while self._send_credit <= 0 and not self.is_lost:
                    await self._creditable.park()
            if self._send_credit <= 0:
                await self.reset()
        await self._muxer.room()
        if self.is_lost or self._finished:
            raise self.lost()

    def write_some(self, payload: memoryview) -> memoryview:
        """Hand over as much as credit and one call's share allow, at once; return the rest. Call
        after ``wait_writable``.
        """
        size = min(len(payload), self._send_credit, MAX_PIECE_BYTES)
        self._send_credit -= size
        self._muxer.enqueue(Kind.DATA, Flag.NONE, self.stream_id, payload[:size])
        return payload[size:]

    def is_free_for(self, size: int) -> bool:
        """Whether so many bytes may go on the wire at once, with nothing in their way."""
        is_open = not (self.is_lost or self._finished)
        return is_open and self._muxer.is_idle and size <= min(self._send_credit, MAX_PIECE_BYTES)

    def write_now(self, payload: bytes) -> None:
        """Put all of this on the wire, before all else; call only when ``is_free_for`` it."""
        self._send_credit -= len(payload)
        self._muxer.write_now(self.stream_id, payload)

    def finish(self) -> None:
        """Half-close: the peer reads to the end of what was written."""
        if not self._finished and not self.is_lost:
            self._finished = True
            self._muxer.enqueue(Kind.WINDOW, Flag.FIN, self.stream_id)

    async def reset(self) -> None:
        """End both directions at once."""
        if not self.is_lost:
            self._muxer.enqueue(Kind.WINDOW, Flag.RST, self.stream_id)
        self.release()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def release(self) -> None:
        """Let go of the stream; what still comes for it is thrown away."""
        self.on_lost()
        self._inbox.clear()
        self._muxer.forget(self.stream_id)

    def lost(self) -> StreamLostError:
        """Return the error to raise."""
        return StreamLostError(f"the stream with {self.peer_id} was lost", peer=self.peer_id)

    # -- what the muxer tells
    # ------------------------------------------------------------------------

    def take_receive_credit(self, size: int) -> int:
        """Take ``size`` from what the peer may send; return what it had."""
        credit = self._receive_credit
        self._receive_credit -= size
        return credit

    def on_bytes(self, received: bytes) -> None:
        """Bytes came, within the credit."""
        if not self.is_lost:
            self._inbox += received
            self._readable.unpark_all()

    def on_credit(self, size: int) -> None:
        """The peer took some of ours."""
        self._send_credit += size
        self._creditable.unpark_all()

    def on_fin(self) -> None:
        """The peer will send no more."""
        self._peer_finished = True
        self._readable.unpark_all()

    def on_lost(self) -> None:
        """Reset by the peer, or the connection has ended."""
        self.is_lost = True
        self._readable.unpark_all()
        self._creditable.unpark_all()
