"""What waits for a journal's disk."""

from __future__ import annotations

from collections.abc import Callable

import trio

from peer.journal_errors import JournalError, JournalFullError
from peer.pending import Pending
from protocols.limits import MAX_JOURNAL_BACKLOG_BYTES, MAX_JOURNAL_BATCH_BYTES


class Backlog:
    """Entries on their way to the disk, in their order, and how many bytes they are: those too that
    were taken and are not settled yet.
    """

    def __init__(self) -> None:
        self._waiting: list[Pending] = []
        self._bytes = 0
        self._moved = trio.Event()

    def __len__(self) -> int:
        """Return how many are not taken yet."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether another entry may wait."""
        return self._bytes <= MAX_JOURNAL_BACKLOG_BYTES

    def check_room(self) -> None:
        """Raise ``JournalFullError`` when too much is waiting already."""
        if not self.has_room:
            raise JournalFullError(
                f"{self._bytes} bytes are waiting for the disk", code="journal-behind"
            )

    async def wait_room(self) -> None:
        """Return when there is room."""
        while not self.has_room:
            await self._moved.wait()

    def add(self, pending: Pending) -> None:
        """Have an entry wait behind all others."""
        self._bytes += len(pending.encoded)
        self._waiting.append(pending)

    def join(self, growing: Pending, size_bytes: int) -> None:
        """Count what joins an entry that waits."""
        growing.joined_bytes += size_bytes
        self._bytes += size_bytes

    def take(self) -> list[Pending]:
        """Return the entries to be written next, which grow no more."""
        count = size = 0
        for waiting in self._waiting:
            if waiting.grow is not None:
                waiting.encoded, waiting.grow = waiting.grow(), None
                self._bytes += len(waiting.encoded) - waiting.joined_bytes
            size += len(waiting.encoded)
            if count and size > MAX_JOURNAL_BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def keep(self, batch: list[Pending], offset: int) -> None:
        """Settle what was taken: it is on the disk, from ``offset`` on."""
        for waiting in batch:
            end = offset + len(waiting.encoded)
            self._bytes -= len(waiting.encoded)
            waiting.settle(offset)
            offset = end
        self._move()

    def refuse(self, batch: list[Pending], why: Callable[[], JournalError]) -> None:
        """Settle what was taken, and all that waits behind it: none of it will be on the disk."""
        refused, self._waiting = batch + self._waiting, []
        self._bytes = 0
        for waiting in refused:
            waiting.settle(why())
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
