"""One session with one peer: every job between the two nodes goes over this stream.

One writer sends everything that is queued as one frame, so that batches form by themselves when
there is much to say, without timers. Content goes in pieces that queue apart: a frame holds all
ordinary messages but at most 64 KiB of pieces, and each job has one piece in the queue at a time,
so small jobs never wait for a large one's content. Handlers are called in the reader's task and
must not block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

import trio

from protocols.errors import LocalProtocolError, RemoteProtocolError, TransportError
from protocols.job import (
    CODEC,
    SESSION_VERSION,
    Chunk,
    Done,
    Input,
    JobMessage,
    Message,
    Offer,
    SessionHello,
)
from protocols.limits import (
    BULK_CHUNK_BYTES,
    MAX_QUEUED_PIECES,
    MAX_SESSION_BATCH,
    MAX_SESSION_QUEUE,
    MAX_SESSION_QUEUE_BYTES,
)
from protocols.transport import Stream

Dispatch = Callable[["SessionLink", JobMessage], None]

CLOSE_S = 1.0  # the end of a stream is a courtesy; nobody waits for it longer


class SessionLink:
    """A session from its first message to its end. ``run`` must run for anything to happen.

    Sending never blocks and never raises: messages to a peer that is gone are dropped, and whoever
    has jobs here is told of the end by ``Sessions``. A peer that does not read what it is sent
    loses the session when ``MAX_SESSION_QUEUE`` messages wait, or content of
    ``MAX_SESSION_QUEUE_BYTES`` in them.
    """

    def __init__(self, stream: Stream, dispatch: Dispatch) -> None:
        self.peer_id = stream.peer_id
        self.is_open = True
        self.why_ended = "the session ended"
        self.jobs: set[tuple[str, bytes]] = set()
        """(role, job id) of those who rely on this session; one without any may be closed."""
        self.is_inbound = False
        """Whether the peer opened it."""
        self.used_at = trio.current_time()
        self.error: RemoteProtocolError | None = None
        """How the peer broke the protocol, if that ended the session."""
        self._stream = stream
        self._dispatch = dispatch
        self._theirs: SessionHello | None = None
        self._waiting: deque[Message] = deque([SessionHello(SESSION_VERSION)])
        self._waiting_bytes = 0
        self._pieces: deque[Message] = deque()
        self._room = trio.Semaphore(MAX_QUEUED_PIECES)
        self._is_writing = False
        self._work = trio.Event()
        self._work.set()  # for the hello
        self._wrote = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def version(self) -> int:
        """The protocol version that both speak; ours until the peer's hello is here."""
        theirs = self._theirs.version if self._theirs else SESSION_VERSION
        return min(SESSION_VERSION, theirs)

    @property
    def is_met(self) -> bool:
        """Whether the peer has spoken on this session."""
        return self._theirs is not None

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be handed to the transport."""
        return bool(self._waiting or self._pieces or self._is_writing)

    def send(self, message: Message) -> None:
        """Queue one message."""
        if not self.is_open:
            return
        self._waiting_bytes += body_bytes(message)
        is_full = self._waiting_bytes > MAX_SESSION_QUEUE_BYTES
        if is_full or len(self._waiting) >= MAX_SESSION_QUEUE:
            self.close("the peer does not read")
            return
        self._waiting.append(message)
        self._work.set()

    async def send_content(self, messages: Iterable[Message]) -> None:
        """Queue the pieces of one job's content one by one, in order, as fast as the peer takes
        them.

        Returns when the last one is queued or the session has ended. The order between these
        messages and those of ``send`` is open.
        """
        for message in messages:
            await self._room.acquire()
            if not self.is_open:
                self._room.release()
                return
            self._pieces.append(message)
            self._work.set()

    async def flush(self) -> None:
        """Wait until everything that is queued was handed to the transport, or the session has
        ended.
        """
        while self.is_open and self.has_unsent:
            await self._wrote.wait()

    def close(self, why: str) -> None:
        """End the session now; what is queued is lost."""
        if self.is_open:
            self.is_open = False
            self.why_ended = why
            for _ in range(self._room.statistics().tasks_waiting):
                self._room.release()
            self._wrote.set()
            self._scope.cancel()

    async def run(self) -> None:
        """Carry the session until either side ends it; what handlers raise passes through."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._half, self._write)
                    await self._half(self._read)
        finally:
            self.close("the node stops")
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._stream.aclose()

    async def _half(self, direction: Callable[[], Awaitable[None]]) -> None:
        try:
            await direction()
        except RemoteProtocolError as error:
            self.error = error
            self.close(f"the peer broke the protocol: {error}")
        except TransportError as error:
            self.close(str(error))

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while batch := self._next_batch():
                self._is_writing = True
                for frame in frames_of(batch):
                    if not self._stream.send_now(frame):
                        await self._stream.send(frame)
                self._is_writing = False
                self._wrote.set()
                self._wrote = trio.Event()

    def _next_batch(self) -> list[Message]:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_SESSION_BATCH))]
        self._waiting_bytes -= sum(map(body_bytes, batch))
        size = 0
        while self._pieces and size + body_bytes(self._pieces[0]) <= BULK_CHUNK_BYTES:
            piece = self._pieces.popleft()
            size += body_bytes(piece)
            self._room.release()
            batch.append(piece)
        return batch

    async def _read(self) -> None:
        while (frame := await self._stream.receive()) is not None:
            self.used_at = trio.current_time()
            for message in CODEC.decode(frame):
                self._take(message)
        self.close("the peer ended the session")

    def _take(self, message: Message) -> None:
        if isinstance(message, SessionHello):
            if self._theirs is not None:
                raise RemoteProtocolError("a second hello came in one session")
            self._theirs = message
        elif self._theirs is None:
            raise RemoteProtocolError("a session began without a hello")
        else:
            self._dispatch(self, message)


def body_bytes(message: Message) -> int:
    """Return how much content a message carries."""
    match message:
        case Input() | Chunk():
            return len(message.body)
        case Offer():
            return len(message.input or b"")
        case Done():
            return len(message.output or b"")
        case _:
            return 0


def frames_of(batch: list[Message]) -> Iterator[bytes]:
    """Encode a batch as one frame, or as more when its texts are so long that one does not hold
    them.
    """
    try:
        yield CODEC.encode(batch)
    except LocalProtocolError:
        if len(batch) == 1:
            raise
        yield from frames_of(batch[: len(batch) // 2])
        yield from frames_of(batch[len(batch) // 2 :])
