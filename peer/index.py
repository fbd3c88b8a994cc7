"""Keeps the index behind the journal: follows it by its mark, and makes it anew whenever it cannot
be used.

DuckDB blocks, so all of it happens in one worker thread at a time. Nobody is told of a damaged
index but by one log line: the journal holds everything, and a rebuilt index gives the same answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import trio

from peer.journal import Journal
from peer.rows import Batch, LastEntry, read_batch
from peer.tables import IN_MEMORY, IndexDamagedError, Lost, discard, is_held_elsewhere
from protocols.cid import CID

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_NAMED_LOST: Final = 4_096  # bundles: 0.5 MB, and a minute until each was asked for
GATHER_S: Final = 0.2
"""How long rows gather for one transaction: a commit costs about as much as a hundred rows."""


class FollowingStore(Protocol):
    """What an index asks of the store that it keeps: a mark, and rows with the next one."""

    def mark(self) -> int:
        """Return the journal offset up to which the store accounts for everything."""
        ...

    def last(self) -> LastEntry | None:
        """Return the last journal entry that it accounts for."""
        ...

    def insert(self, batch: Batch) -> None:
        """Add rows and their mark in one transaction."""
        ...

    def lost(self, start: int, end: int) -> list[Lost]:
        """Return what the journal held between these offsets and nowhere else."""
        ...

    def named_in(self, lost: Lost, limit: int) -> list[bytes]:
        """Return the name of one record of each bundle in such a range."""
        ...

    def erase(self, cids: Iterable[bytes], before: int) -> None:
        """Leave of these records only where they stood before an offset of the journal."""
        ...

    def forget(self, start: int, end: int) -> None:
        """Delete what the journal held between two offsets, where nothing is any more."""
        ...

    def copy_to(self, path: Path) -> None:
        """Write what the store holds to a new file."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


S = TypeVar("S", bound=FollowingStore)


class Index(Generic[S]):
    """One daemon's store, following its journal; ``open_store`` opens or makes the file at a path.

    ``run`` must be started before ``ask``. ``ask`` and ``rebuild`` may be called from any task;
    they are served one at a time. ``lag_bytes_max`` is how far ``run`` lets the journal get ahead:
    with none it follows at once, with some it leaves the rest to whoever reads, who calls
    ``catch_up`` first, and until then nothing is opened.
    """

    def __init__(
        self,
        journal: Journal,
        path: Path,
        own: bytes,
        open_store: Callable[[Path], S],
        *,
        lag_bytes_max: int = 0,
    ) -> None:
        self._journal = journal
        self._path = path
        self._own = own
        self._open_store = open_store
        self._lag_bytes_max = lag_bytes_max
        self._store: S | None = None
        self._thread = trio.CapacityLimiter(1)  # the one thread that may touch the store
        self._turn = trio.Lock()
        self._moved = trio.Event()
        self.mark = 0
        self.lost: list[Lost] = []
        """What this index had followed and the journal has no longer, since its tail was cut."""
        self.lost_named: list[tuple[Lost, CID]] = []
        """One record of each bundle of that, by which it can be asked for."""

    @property
    def lag_bytes(self) -> int:
        """How far the index is behind the durable journal."""
        return max(0, self._journal.size - self.mark)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Catch up, then follow the journal until cancelled; the file is closed on the way out."""
        try:
            if not self._lag_bytes_max:
                await self.catch_up()
            task_status.started()
            followed_to = self._journal.size
            while True:
                await self._journal.wait_past(max(followed_to, self.mark) + self._lag_bytes_max)
                await trio.sleep(GATHER_S)
                await self.catch_up()
                followed_to = self.mark
        finally:
            with trio.CancelScope(shield=True):
                await self.aclose()

    async def catch_up(self) -> None:
        """Return when the index accounts for everything that was durable when this was called."""
        end = self._journal.size
        while True:
            before = self.mark
            self._mark_is(await self._served(self._advance))
            if self.mark >= end or self.mark == before:
                return

    async def ask(self, question: Callable[[S], T]) -> T:
        """Put a question to the store in its thread; on a damaged index it is rebuilt and asked
        once more.
        """
        return await self._served(question)

    async def rebuild(self) -> None:
        """Make the index anew from the journal and return when it has caught up."""
        async with self._turn:
            await self._in_thread(self._start_over)
        self._mark_is(0)
        await self.catch_up()

    async def erase(self, cids: Iterable[bytes], before: int) -> None:
        """Take the bodies of these records out of the index, whose journal has them no longer
        before that offset.

        On return no byte of them is in its file: that one is gone, and another stands in its place.
        """
        erased = list(cids)

        def erase(store: S) -> None:
            store.erase(erased, before)
            self._copy(store)

        await self._served(erase)

    async def forget(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take out of the index what the journal held between these offsets and is about to hold no
        longer. What stands elsewhere too stays.
        """
        gone = list(ranges)

        def forget(store: S) -> None:
            for start, end in gone:
                store.forget(start, end)
            self._copy(store)  # whoever followed by row numbers sees another store

        await self._served(forget)

    async def wait_past(self, mark: int) -> int:
        """Return the index's mark once it lies past ``mark``."""
        while self.mark <= mark:
            await self._moved.wait()
        return self.mark

    async def aclose(self) -> None:
        """Close the file."""
        async with self._turn:
            store, self._store = self._store, None
            if store is not None:
                await self._in_thread(store.close)

    def _mark_is(self, mark: int) -> None:
        self.mark = mark
        self._moved.set()
        self._moved = trio.Event()

    async def _served(self, question: Callable[[S], T]) -> T:
        async with self._turn:
            try:
                return await self._in_thread(lambda: question(self._opened()))
            except IndexDamagedError as error:
                log.warning("index rebuilt from the journal", extra={"reason": error.message})
                return await self._in_thread(lambda: self._recover(question))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._thread)

    # Below, everything runs in the store's thread

    def _opened(self) -> S:
        if self._store is None:
            store = self._open_store(self._path)
            last = store.last()
            is_ahead = store.mark() > self._journal.size
            if is_ahead or (last is not None and not self._is_here(last)):
                with closing(store):
                    place = last.place if last is not None else 0
                    gone_from = min(place, self._journal.opened_at)
                    self.lost = store.lost(gone_from, store.mark())
                    self.lost_named = _named(store, self.lost)
                raise IndexDamagedError("the index followed entries that the journal lacks")
            self._store = store
        return self._store

    def _copy(self, store: S) -> None:
        """Put a file in the index's place that holds what it holds and nothing else."""
        if self._path == IN_MEMORY:
            return
        # A deleted row's bytes stay in free blocks of the file, which only a new one lacks
        fresh = self._path.with_name(f"{self._path.name}.new")
        discard(fresh)
        try:
            store.copy_to(fresh)
        except (IndexDamagedError, OSError) as error:
            log.warning("index is made anew", extra={"reason": str(error)})  # a full disk, probably
            discard(fresh)
            self._start_over()
            return
        store.close()
        self._store = None
        discard(self._path)
        fresh.replace(self._path)

    def _is_here(self, last: LastEntry) -> bool:
        for offset, _end, _kind, body in self._journal.scan(last.place):
            return LastEntry.of(offset, body) == last
        return False

    def _recover(self, question: Callable[[S], T]) -> T:
        try:
            return self._rebuilt(question)
        except (IndexDamagedError, OSError) as error:  # a full disk, most likely
            if self._path == IN_MEMORY:
                raise
            log.warning("index kept in memory", extra={"reason": str(error)})
            with suppress(OSError):
                self._start_over()  # what there is of the file only takes room
            self._path = IN_MEMORY
            return self._rebuilt(question)

    def _rebuilt(self, question: Callable[[S], T]) -> T:
        self._start_over()
        store = self._opened()
        before = -1
        while (after := self._advance(store)) > before:
            before = after
        return question(store)

    def _start_over(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        if is_held_elsewhere(self._path):
            log.warning("index kept in memory", extra={"reason": "another process has the file"})
            self._path = IN_MEMORY
        discard(self._path)

    def _advance(self, store: S) -> int:
        """Index the next batch and return the mark after it, which has not moved when there was
        none.
        """
        mark = store.mark()
        end = self._journal.size  # before the scan, which covers at least this much
        batch = read_batch(self._journal.scan(mark), end, self._own)
        if batch.mark > mark:
            store.insert(batch)
        return max(mark, batch.mark)


def _named(store: FollowingStore, lost: Iterable[Lost]) -> list[tuple[Lost, CID]]:
    named = ((each, CID(cid)) for each in lost for cid in store.named_in(each, MAX_NAMED_LOST))
    return list(islice(named, MAX_NAMED_LOST))
