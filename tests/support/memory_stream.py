"""Streams of the in-memory network: frames in two pipes, with the windows, ends and resets of the
real ones.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from protocols.errors import LocalProtocolError, StreamLostError
from protocols.keys import PeerId
from protocols.limits import MAX_FRAME_BYTES, SEND_STALL_S, STREAM_WINDOW_BYTES

if TYPE_CHECKING:
    from tests.support.memory import Link, MemoryTransport


class Signal:
    """Wakes everyone who waits, again and again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        """Wake those who wait now."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait for the next ``fire``."""
        await self._event.wait()


class _Pipe:
    """One direction: frames under way, each with its time of arrival; None is the explicit end."""

    def __init__(self) -> None:
        self.frames: deque[tuple[float, bytes | None]] = deque()
        self.size = 0
        self.is_finished = False
        self.is_ended = False
        self.is_lost = False
        self.changed = Signal()

    def lose(self) -> None:
        self.is_lost = True
        self.changed.fire()


class MemoryStream:
    """One side of a stream; keeps the contract of ``protocols.transport.Stream``."""

    def __init__(
        self, link: Link, owner: MemoryTransport, peer_id: PeerId, inbox: _Pipe, outbox: _Pipe
    ) -> None:
        self.peer_id = peer_id
        self.owner = owner
        self._link = link
        self._inbox = inbox
        self._outbox = outbox
        self._sending = trio.Lock()

    async def send(self, frame: bytes) -> None:
        if not 0 < len(frame) <= MAX_FRAME_BYTES:
            raise LocalProtocolError(
                f"a frame must have 1 to {MAX_FRAME_BYTES} bytes, not {len(frame)}", got=len(frame)
            )
        if self._outbox.is_finished:
            raise LocalProtocolError("send after finish")
        async with self._sending:
            await self._put(frame)

    def send_now(self, frame: bytes) -> bool:
        return False

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._outbox.is_finished:
            return
        if not (self._outbox.is_lost and self._inbox.is_ended):
            await self._put(None)
        self._outbox.is_finished = True

    async def _put(self, frame: bytes | None) -> None:
        pipe = self._outbox
        with trio.move_on_after(SEND_STALL_S) as patience:
            while pipe.size >= STREAM_WINDOW_BYTES and not pipe.is_lost:
                await pipe.changed.wait()
        if patience.cancelled_caught:
            await self.reset()
        if pipe.is_lost:
            raise self._lost()
        arrives_at = trio.current_time() + self._link.network.delay()
        if pipe.frames:
            arrives_at = max(arrives_at, pipe.frames[-1][0])
        pipe.frames.append((arrives_at, frame))
        pipe.size += len(frame or b"")
        pipe.changed.fire()
        self._link.network.count(self.owner.peer_id, self.peer_id, len(frame or b""))
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes | None:
        pipe = self._inbox
        await trio.lowlevel.checkpoint()
        while not pipe.is_ended:
            if pipe.frames and not self._link.is_blocked:
                arrives_at = pipe.frames[0][0]
                if arrives_at > trio.current_time():
                    await trio.sleep_until(arrives_at)
                    continue
                return self._take()
            if pipe.is_lost:
                raise self._lost()
            await pipe.changed.wait()
        return None

    def _take(self) -> bytes | None:
        pipe = self._inbox
        _, frame = pipe.frames.popleft()
        pipe.size -= len(frame or b"")
        pipe.is_ended = frame is None
        pipe.changed.fire()
        return frame

    async def aclose(self) -> None:
        both_finished = self._outbox.is_finished and self._inbox.is_ended
        if not both_finished:
            await self.reset()
        await trio.lowlevel.checkpoint()
        self._link.streams.discard(self)

    async def reset(self) -> None:
        self._outbox.lose()
        self._inbox.frames.clear()
        self._inbox.lose()
        self._link.streams.discard(self)
        await trio.lowlevel.checkpoint()

    def lose(self) -> None:
        """The connection broke: frames under way are gone."""
        self._inbox.frames.clear()
        self._inbox.lose()
        self._outbox.lose()

    def wake(self) -> None:
        """Faults changed: look again."""
        self._inbox.changed.fire()

    def _lost(self) -> StreamLostError:
        return StreamLostError(f"the stream with {self.peer_id} was lost", peer=self.peer_id)


def stream_pair(
    link: Link, one: MemoryTransport, other: MemoryTransport
) -> tuple[MemoryStream, MemoryStream]:
    """Return both sides of a new stream on this connection."""
    there, back = _Pipe(), _Pipe()
    first = MemoryStream(link, one, other.peer_id, back, there)
    second = MemoryStream(link, other, one.peer_id, there, back)
    link.streams.update((first, second))
    return first, second
