"""A pair of streams within this process, for a node that is a candidate for its own jobs.

It has the contract of ``protocols.transport.Stream``, so the session over it is like any other.
"""

from __future__ import annotations

import trio

from protocols.errors import StreamLostError
from protocols.keys import PeerId

QUEUED_FRAMES = 4  # backpressure between two tasks of one process needs no more


class LoopbackStream:
    """One end. Frames are not copied; the explicit end is the closing of the channel after
    ``finish``.
    """

    def __init__(
        self,
        peer_id: PeerId,
        outbox: trio.MemorySendChannel[bytes | None],
        inbox: trio.MemoryReceiveChannel[bytes | None],
    ) -> None:
        self._peer_id = peer_id
        self._outbox = outbox
        self._inbox = inbox

    @property
    def peer_id(self) -> PeerId:
        """Ourselves."""
        return self._peer_id

    async def send(self, frame: bytes) -> None:
        """Hand over one frame."""
        try:
            await self._outbox.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamLostError("the other end of the loopback is closed") from error

    def send_now(self, frame: bytes) -> bool:
        """Hand over one frame if there is room."""
        try:
            self._outbox.send_nowait(frame)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # ``send`` waits, or says why not
        return True

    async def receive(self) -> bytes | None:
        """Return the next frame, or None after the explicit end."""
        try:
            return await self._inbox.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise StreamLostError("the other end of the loopback is closed") from error

    async def finish(self) -> None:
        """Say that no more frames follow."""
        try:
            await self._outbox.send(None)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def aclose(self) -> None:
        """Release this end."""
        await self._outbox.aclose()
        await self._inbox.aclose()

    async def reset(self) -> None:
        """End both directions at once."""
        await self.aclose()


def loopback_pair(own: PeerId) -> tuple[LoopbackStream, LoopbackStream]:
    """Return the two ends of a new stream with ourselves."""
    there_send, there_receive = trio.open_memory_channel[bytes | None](QUEUED_FRAMES)
    back_send, back_receive = trio.open_memory_channel[bytes | None](QUEUED_FRAMES)
    return (
        LoopbackStream(own, there_send, back_receive),
        LoopbackStream(own, back_send, there_receive),
    )
