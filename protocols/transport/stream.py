"""Frames over a muxed stream: the ``Stream`` that the rest of covey sees."""

from __future__ import annotations

import trio

from protocols.errors import LocalProtocolError, RemoteProtocolError, StreamLostError
from protocols.keys import PeerId
from protocols.transport.framing import FrameDecoder, FrameEncoder
from protocols.transport.muxed_stream import MuxedStream
from protocols.wire import LENGTH

_READ_BYTES = 64 << 10


class FramedStream:
    """One side of a stream; see ``protocols.transport.Stream`` for what it guarantees.

    Nothing here buffers without bound: received frames wait in the muxed stream's window, and what
    one read completed in the decoder.
    """

    def __init__(self, muxed: MuxedStream) -> None:
        self._muxed = muxed
        self._encoder = FrameEncoder()
        self._decoder = FrameDecoder()
        self._sending = trio.Lock()
        self._is_finished = False

    @property
    def peer_id(self) -> PeerId:
        """The other side, as the secure channel proved it."""
        return self._muxed.peer_id

    async def send(self, frame: bytes) -> None:
        """Send one frame, whole."""
        async with self._sending:
            if self._is_finished:
                raise LocalProtocolError("a frame was sent after the end of its stream")
            await self._muxed.wait_writable()
            await self._write(self._encoder.encode(frame))

    def send_now(self, frame: bytes) -> bool:
        """Send one small frame at once if nothing is in its way."""
        if not self._is_free_for(frame):
            return False
        self._muxed.write_now(self._encoder.encode(frame))
        return True

    def _is_free_for(self, frame: bytes) -> bool:
        is_ours = not (self._sending.locked() or self._is_finished)
        return is_ours and self._muxed.is_free_for(LENGTH.size + len(frame))

    async def _write(self, encoded: bytes) -> None:
        """Write what is now part of the digest: at once if it fits one piece, else cancelling it
        ends the stream.
        """
        rest = self._muxed.write_some(memoryview(encoded))
        if not rest:
            return
        try:
            await self._muxed.write(rest)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._muxed.reset()
            raise

    async def receive(self) -> bytes | None:
        """Return the next frame, or None after the explicit end."""
        frames = self._decoder.frames
        if frames:
            await trio.lowlevel.checkpoint_if_cancelled()
            return frames.popleft()
        while not frames and not self._decoder.is_ended:
            received = await self._muxed.read(_READ_BYTES)
            if not received:
                raise StreamLostError(
                    f"the stream with {self.peer_id} stopped without its end", peer=self.peer_id
                )
            await self._decode(received)
        return frames.popleft() if frames else None

    async def _decode(self, received: bytes) -> None:
        try:
            self._decoder.feed(received)
        except RemoteProtocolError:
            await self._muxed.reset()
            raise

    async def finish(self) -> None:
        """Send the end marker and half-close."""
        async with self._sending:
            if self._is_finished:
                return
            if self._muxed.is_lost and self._decoder.is_ended:
                self._is_finished = True  # the peer said all it had to say and left: nobody to tell
                return
            await self._muxed.wait_writable()
            self._is_finished = True
            await self._write(self._encoder.end())
            self._muxed.finish()

    async def aclose(self) -> None:
        """Release the stream; a reset unless both sides finished."""
        if self._is_finished and self._decoder.is_ended:
            self._muxed.release()
            await trio.lowlevel.checkpoint()
        else:
            await self._muxed.reset()

    async def reset(self) -> None:
        """End both directions at once."""
        await self._muxed.reset()
