"""One connection: yamux/1.0.0 over an encrypted channel, with guards that py-libp2p's muxer lacks.

* Only the writer task waits for the socket. Callers hand over whole yamux frames, so cancelling one
  of them, at whatever moment, leaves a whole frame or none on the wire. (In py-libp2p 0.8.1 a
  cancelled write leaves half a Noise message and ends the connection.)
* A sender that ignores the receive window is cut off before its bytes are buffered: memory is
  bounded by ``MAX_STREAMS_PER_PEER`` windows of ``STREAM_WINDOW_BYTES``. (py-libp2p logs a warning
  and buffers.)
* The reader never waits for anything but the socket: answers go to the writer's queue, streams are
  drained into their windows. Two peers can't block each other's readers, and one stalled stream
  stalls no other.
* Silence is noticed: a peer from which nothing comes for ``PEER_SILENCE_S``, pings included, is
  gone. (A SIGSTOPped peer or a partition stays "connected" for more than a minute in py-libp2p.)

Streams have a credit of 256 KiB each way, as the yamux specification starts them; it is returned
when half of it was read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from protocols.errors import RemoteProtocolError, StreamLostError, TransportError
from protocols.keys import PeerId
from protocols.limits import (
    BULK_CHUNK_BYTES,
    MAX_CONTROL_BYTES,
    MAX_STREAMS_PER_PEER,
    PEER_SILENCE_S,
    PING_INTERVAL_S,
    STREAM_WINDOW_BYTES,
    WRITE_STALL_S,
)
from protocols.transport.channel import MAX_PLAINTEXT_BYTES, SecureChannel
from protocols.transport.muxed_stream import MuxedStream
from protocols.transport.yamux import HEADER, MAX_STREAM_ID, VERSION, Flag, GoAway, Kind, header

log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.5  # for what was handed over before the end; a live peer takes 64 KiB in less
_OWN_STALL_S: Final = 0.2  # after a stall of our own the reader must run before we judge the peer


class Muxer:
    """The streams of one connection.

    ``run`` does the work and returns when the connection has ended, whatever the reason; ``reason``
    then says which. ``inbound_limit`` is asked for the number of streams that the peer may hold
    open at this moment.
    """

    def __init__(
        self,
        channel: SecureChannel,
        peer_id: PeerId,
        *,
        is_initiator: bool,
        inbound_limit: Callable[[], int] = lambda: MAX_STREAMS_PER_PEER,
        on_closed: Callable[[Muxer], None] = lambda muxer: None,
    ) -> None:
        self.peer_id = peer_id
        self.is_closed = False
        self.reason: str | None = None
        self._farewell = GoAway.NORMAL
        self._channel = channel
        self._inbound_limit = inbound_limit
        self._on_closed = on_closed
        self._on_stream: Callable[[MuxedStream], None] = lambda stream: None
        self._streams: dict[int, MuxedStream] = {}
        self._our_parity = 1 if is_initiator else 0
        self._next_id = 1 if is_initiator else 2
        self._scope = trio.CancelScope()
        # Reading: what is left of the last chunk, and the DATA frame whose body is under way.
        self._rest = b""
        self._body: tuple[MuxedStream | None, int] = (None, Flag.NONE)
        self._body_left = 0
        self._heard_at = 0.0
        # Writing: answers go first, frames of streams keep their order.
        self._control = bytearray()
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._unsent = b""
        """What ``write_now`` encrypted and the socket did not take: it goes before all else."""
        self._is_writing = False
        self._patience = trio.CancelScope(shield=True)
        self._wake = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    async def run(self, on_stream: Callable[[MuxedStream], None]) -> None:
        """Serve until the connection ends; ``on_stream`` gets each stream that the peer opens and
        must not block.
        """
        self._on_stream = on_stream
        self._heard_at = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for loop in (self._read_loop, self._write_loop, self._watch_loop):
                        nursery.start_soon(self._until_lost, loop)
        finally:
            self._lose_streams()
            with trio.CancelScope(shield=True):
                await self._flush()
                await self._channel.aclose()

    async def _until_lost(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except RemoteProtocolError as error:
            self._farewell = GoAway.PROTOCOL_ERROR
            self.abort(str(error))
        except TransportError as error:
            self.abort(str(error))
        finally:
            self.abort("stopped")

    def abort(self, reason: str) -> None:
        """End the connection now, from any task."""
        if self.reason is None:
            self.reason = reason
            log.debug("connection ended", extra={"peer": self.peer_id, "reason": reason})
        if not self.is_closed:
            self.is_closed = True
            self._scope.cancel()
            self._patience.deadline = min(self._patience.deadline, trio.current_time() + _FLUSH_S)
            self._on_closed(self)

    def close(self) -> None:
        """End the connection after what was handed over before."""
        self.abort("closed by us")

    def open(self) -> MuxedStream:
        """Open a stream; raises ``StreamLostError`` when the connection is ending or has too many
        of ours.
        """
        ours = sum(1 for stream_id in self._streams if stream_id & 1 == self._our_parity)
        if self.is_closed or ours >= MAX_STREAMS_PER_PEER or self._next_id > MAX_STREAM_ID:
            what = "has ended" if self.is_closed else f"has {ours} streams of ours"
            raise StreamLostError(f"the connection with {self.peer_id} {what}", peer=self.peer_id)
        stream = MuxedStream(self, self._next_id)
        self._streams[self._next_id] = stream
        self._next_id += 2
        self.enqueue(Kind.WINDOW, Flag.SYN, stream.stream_id)
        return stream

    def forget(self, stream_id: int) -> None:
        """Drop a stream that its user has released."""
        self._streams.pop(stream_id, None)

    # -- writing -----------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until the queue has room for a frame; it holds at most 64 KiB and one frame."""
        while self._queued_bytes >= BULK_CHUNK_BYTES and not self.is_closed:
            await self._room.park()

    def enqueue(
        self, kind: int, flags: int, stream_id: int, body: memoryview | None = None
    ) -> None:
        """Hand over one whole frame of a stream, in order; the caller waited for ``room`` if it has
        a body.
        """
        frame = header(kind, flags, stream_id, len(body) if body else 0)
        if body:
            frame += body
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        if self._queued_bytes > 2 * STREAM_WINDOW_BYTES:
            # Only resets of streams that the peer keeps opening get here: they don't wait for room.
            self.abort("the peer does not read")
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written."""
        return not (self._is_writing or self._unsent or self._frames or self._control)

    def write_now(self, stream_id: int, body: bytes) -> None:
        """Write a frame of a stream as far as the socket takes it, in the place of the writer task,
        which would do so two turns of the loop later; call it only when ``is_idle``.
        """
        try:
            frame = header(Kind.DATA, Flag.NONE, stream_id, len(body)) + body
            self._unsent = self._channel.write_now(frame)
        except TransportError as error:
            self.abort(str(error))
        if self._unsent:
            self._wake.set()

    def return_credit(self, stream_id: int, size: int) -> None:
        """Let the peer send ``size`` more bytes on a stream."""
        self._queue_control(Kind.WINDOW, Flag.NONE, stream_id, size)

    def _queue_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        self._control += header(kind, flags, stream_id, value)
        if len(self._control) > MAX_CONTROL_BYTES:
            self.abort("the peer does not read our answers")
        self._wake.set()

    async def _write_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while (self._unsent or self._control or self._frames) and not self.is_closed:
                self._is_writing = True
                # Shielded, for after half a message nothing more can be said; ``abort`` hurries it.
                deadline = trio.current_time() + WRITE_STALL_S
                self._patience = trio.CancelScope(deadline=deadline, shield=True)
                with self._patience:
                    await self._write_next()
                if self._patience.cancelled_caught:
                    raise TransportError("the peer takes nothing", code="connection-lost")
                self._is_writing = False

    async def _write_next(self) -> None:
        if self._unsent:
            await self._channel.write_rest(self._unsent)
            self._unsent = b""
        else:
            await self._channel.write(self._take_batch())

    def _take_batch(self) -> bytes:
        """Take what fits one Noise message, at least one frame: natural batching, no timers."""
        parts = [bytes(self._control)]
        size = len(self._control)
        self._control.clear()
        while self._frames and (size == 0 or size + len(self._frames[0]) <= MAX_PLAINTEXT_BYTES):
            frame = self._frames.popleft()
            parts.append(frame)
            size += len(frame)
            self._queued_bytes -= len(frame)
        self._room.unpark_all()
        return b"".join(parts)

    async def _flush(self) -> None:
        """Send what was handed over and that this is the end, unless it came in mid-message."""
        if self._is_writing or self._unsent:
            return
        self._frames.append(header(Kind.GO_AWAY, Flag.NONE, 0, self._farewell))
        self._queued_bytes += HEADER.size
        with trio.move_on_after(_FLUSH_S):
            try:
                while self._control or self._frames:
                    await self._channel.write(self._take_batch())
            except TransportError:
                log.debug("the last words were not heard", extra={"peer": self.peer_id})

    # -- reading -----------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        while True:
            chunk = await self._channel.receive()
            self._heard_at = trio.current_time()
            self._take_in(self._rest + chunk if self._rest else chunk)

    def _take_in(self, received: bytes) -> None:
        """Act on every header and body in these bytes; keep an unfinished header for the next."""
        offset = 0
        while True:
            if self._body_left:
                piece = received[offset : offset + self._body_left]
                if not piece:
                    break
                offset += len(piece)
                self._on_body(piece)
            elif len(received) - offset >= HEADER.size:
                self._on_header(*HEADER.unpack_from(received, offset))
                offset += HEADER.size
            else:
                break
        self._rest = received[offset:]

    def _on_header(self, version: int, kind: int, flags: int, stream_id: int, value: int) -> None:
        if version != VERSION or kind > Kind.GO_AWAY:
            raise RemoteProtocolError("a yamux header is malformed")
        if kind == Kind.PING:
            if flags & Flag.SYN:
                self._queue_control(Kind.PING, Flag.ACK, 0, value)
        elif kind == Kind.GO_AWAY:
            raise TransportError(f"closed by the peer, code {value}", code="connection-lost")
        else:
            if flags & Flag.SYN:
                self._on_syn(stream_id)
            stream = self._streams.get(stream_id)
            if kind == Kind.DATA:
                self._on_data(stream, flags, value)
            elif stream is not None:
                stream.on_credit(value)
                self._on_end(stream, flags)

    def _on_syn(self, stream_id: int) -> None:
        if stream_id & 1 == self._our_parity or stream_id == 0 or stream_id in self._streams:
            raise RemoteProtocolError("the peer opened a stream under a wrong number")
        theirs = sum(1 for known in self._streams if known & 1 != self._our_parity)
        if theirs >= self._inbound_limit():
            self._queue_control(Kind.WINDOW, Flag.RST, stream_id, 0)
            return
        stream = self._streams[stream_id] = MuxedStream(self, stream_id)
        self._queue_control(Kind.WINDOW, Flag.ACK, stream_id, 0)
        self._on_stream(stream)

    def _on_data(self, stream: MuxedStream | None, flags: int, size: int) -> None:
        """Check the sender's credit before its bytes come; those for a stream that we reset are
        thrown away.
        """
        self._check_credit(stream, size)
        self._body = (stream, flags)
        self._body_left = size
        if size == 0 and stream is not None:
            self._on_end(stream, flags)

    def _check_credit(self, stream: MuxedStream | None, size: int) -> None:
        credit = STREAM_WINDOW_BYTES if stream is None else stream.take_receive_credit(size)
        if size > credit:
            raise RemoteProtocolError("the peer ignores the receive window", got=size)

    def _on_body(self, piece: bytes) -> None:
        stream, flags = self._body
        self._body_left -= len(piece)
        if stream is not None:
            stream.on_bytes(piece)
            if self._body_left == 0:
                self._on_end(stream, flags)

    def _on_end(self, stream: MuxedStream, flags: int) -> None:
        if flags & Flag.RST:
            stream.on_lost()
        elif flags & Flag.FIN:
            stream.on_fin()

    def _lose_streams(self) -> None:
        self._room.unpark_all()
        for stream in list(self._streams.values()):
            stream.on_lost()

    # -- liveness ----------------------------------------------------------------------------------

    async def _watch_loop(self) -> None:
        """Ping a silent peer; give up on it after ``PEER_SILENCE_S``."""
        while True:
            silent_s = trio.current_time() - self._heard_at
            if silent_s >= PEER_SILENCE_S:
                await trio.sleep(_OWN_STALL_S)
                if trio.current_time() - self._heard_at >= PEER_SILENCE_S:
                    raise TransportError("the peer is silent", code="peer-silent")
            elif silent_s >= PING_INTERVAL_S:
                self._queue_control(Kind.PING, Flag.SYN, 0, 0)
                await trio.sleep(min(PING_INTERVAL_S, PEER_SILENCE_S - silent_s))
            else:
                await trio.sleep(PING_INTERVAL_S - silent_s)
