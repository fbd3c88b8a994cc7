"""The journal: an append-only file that is the only truth about what this peer has promised to
remember.

``append`` returns once its entry is on the disk. Those who wait are batched by themselves: while
one fsync runs in its thread the next batch gathers, so many writers share one fsync and one writer
waits for nobody. Everything else that a peer keeps (databases, indices) follows the journal and can
be deleted.

When the disk is full the batch is refused and its bytes are taken back; whoever frees space need
not restart anything. Any other error of the disk ends ``run``, and with it the process: after a
failed fsync nobody knows what is on the disk, and guessing is how acknowledged data gets lost.
"""

from __future__ import annotations

import fcntl
import logging
import math
import mmap
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import trio

from peer.machine import NO_SPACE
from protocols.errors import CoveyError
from protocols.journal import (
    HEAD_BYTES,
    HEADER_BYTES,
    SALT_BYTES,
    Damage,
    Entry,
    Scanned,
    body_length,
    decode_header,
    encode_entry,
    encode_header,
    entry_at,
    scan,
)
from protocols.limits import JOURNAL_COMPANY_S, MAX_JOURNAL_BACKLOG_BYTES, MAX_JOURNAL_BATCH_BYTES

log = logging.getLogger(__name__)

_KINDS = frozenset(Entry)


class JournalError(CoveyError):
    """The journal did not take or give what was asked of it."""

    default_code = "journal"


class JournalFullError(JournalError):
    """The disk is full: nothing of the refused batch was kept, and the journal stays usable."""

    default_code = "disk-full"


class JournalBusyError(JournalError):
    """Another process has this journal open."""

    default_code = "journal-busy"


class JournalDamagedError(JournalError):
    """The file is no journal, or both copies of its header are damaged; it was not touched."""

    default_code = "journal-damaged"


Offload = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a blocking function somewhere and waits for it to end."""

Done = Callable[["int | JournalError"], None]
"""Told the entry's offset once it is on the disk, or why it never will be."""


class Pending:
    """An entry on its way to the disk."""

    __slots__ = ("_done", "_outcome", "_settled", "encoded")

    def __init__(self, encoded: bytes, done: Done | None) -> None:
        self.encoded = encoded
        self._done = done
        self._outcome: int | JournalError | None = None
        self._settled: trio.Event | None = None  # made by the first who waits: many are not waited

    async def wait(self) -> int:
        """Return the entry's offset once it is on the disk; raises ``JournalError`` if it was
        refused.
        """
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
        else:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()
        if isinstance(self._outcome, int):
            return self._outcome
        raise self._outcome or JournalError("an entry was settled without an outcome")

    def settle(self, outcome: int | JournalError) -> None:
        """Say what became of the entry; the journal's to call."""
        self._outcome = outcome
        if self._done is not None:
            self._done(outcome)
        elif isinstance(outcome, JournalError):
            log.warning("journal entry refused", extra={"code": outcome.code})
        if self._settled is not None:
            self._settled.set()


class Journal:
    """One journal file, open for writing by this process alone.

    Made by ``open``. ``run`` does the writing; entries appended before it starts wait for it.
    Whoever opened it closes it, after ``run`` has ended.
    """

    def __init__(self, path: Path, fd: int, salt: bytes, offload: Offload) -> None:
        self.path = path
        self._offload = offload
        self._fd = fd
        self._salt = salt
        self.size = HEADER_BYTES
        """The durable end: what is below it survives power loss."""
        self.opened_at = HEADER_BYTES
        """The durable end that ``open`` found: what was written before lies in front of it."""
        self.tail_cut_bytes = 0
        """How many bytes of a torn tail ``open`` cut off behind that end."""
        self.damage: list[Damage] = []
        """Where ``open`` found damage in front of whole entries; those bytes are skipped for
        ever.
        """
        self._waiting: list[Pending] = []
        self._backlog_bytes = 0
        self._closed: JournalError | None = None
        self._stirred = trio.Event()
        self._patience = trio.CancelScope()
        """Ends when an entry that could wait for company has waited long enough."""
        self._moved = trio.Event()
        self._passed = trio.Event()
        self._awaited = math.inf
        """The lowest offset that somebody waits for in ``wait_past``."""

    @classmethod
    def open(
        cls, path: Path, *, salt: bytes | None = None, offload: Offload | None = None
    ) -> Journal:
        """Open or create the journal at ``path``, lock it, and cut a torn tail.

        ``salt`` fixes a new journal's salt. ``offload`` says where the disk is waited for: a
        thread, unless the caller's clock is virtual and would run on meanwhile. Raises
        ``JournalBusyError`` when another process has it, ``JournalDamagedError`` when the file is
        no journal.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path)
            if os.fstat(fd).st_size <= HEADER_BYTES and _read_salt(fd) is None:
                _create(fd, path, salt or secrets.token_bytes(SALT_BYTES))
            found = _read_salt(fd)
            if found is None:
                raise JournalDamagedError(
                    f"{path} does not start like a journal",
                    hint="restore it from a copy, or move it away: others hold what you shared",
                )
            journal = cls(path, fd, found, offload or _in_a_thread())
            journal._recover()
        except BaseException:
            os.close(fd)
            raise
        return journal

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write batches until cancelled; what was appended before the cancellation is still
        written.
        """
        task_status.started()
        try:
            while True:
                with self._patience:
                    await self._stirred.wait()
                self._stirred, self._patience = trio.Event(), trio.CancelScope()
                await self._write_all()
        finally:
            with trio.CancelScope(shield=True):
                await self._write_all()
            self._close("the journal has stopped")

    async def append(self, kind: Entry, body: bytes) -> int:
        """Append an entry; return its offset once it is on the disk.

        Cancelled, the entry may or may not be kept. Raises ``JournalFullError`` when it was
        refused.
        """
        await self.wait_room()
        return await self.append_soon(kind, body).wait()

    def append_soon(
        self, kind: Entry, body: bytes, done: Done | None = None, *, can_wait: bool = False
    ) -> Pending:
        """Queue an entry and return what can be waited for; ``done`` is called with its outcome.
        One that ``can_wait`` goes with the next that can't, or after ``JOURNAL_COMPANY_S``.

        Entries reach the file in the order of these calls. When one is refused, so is every entry
        queued behind it, and every ``done`` is called before any other task runs: numbers given out
        in that order can be taken back. Raises ``JournalFullError`` when too much is waiting
        already.
        """
        if self._closed is not None:
            raise self._closed
        if self._backlog_bytes > MAX_JOURNAL_BACKLOG_BYTES:
            raise JournalFullError(
                f"{self._backlog_bytes} bytes are waiting for the disk", code="journal-behind"
            )
        encoded = encode_entry(self._salt, kind, body)
        pending = Pending(encoded, done)
        self._waiting.append(pending)
        self._backlog_bytes += len(encoded)
        if can_wait:
            due_at = trio.current_time() + JOURNAL_COMPANY_S
            self._patience.deadline = min(self._patience.deadline, due_at)
        else:
            self._stirred.set()
        return pending

    async def wait_room(self) -> None:
        """Return when ``append_soon`` would accept an entry."""
        while self._backlog_bytes > MAX_JOURNAL_BACKLOG_BYTES and self._closed is None:
            await self._moved.wait()

    async def wait_past(self, offset: int) -> None:
        """Return when the durable end is past ``offset``."""
        await trio.lowlevel.checkpoint()  # a follower far behind must not starve the others
        while self.size <= offset:
            # Not ``_moved``: a follower that waits for megabytes need not be woken at each batch.
            self._awaited = min(self._awaited, offset)
            await self._passed.wait()

    def scan(self, start: int = 0) -> Iterator[tuple[int, int, Entry, bytes]]:
        """Yield (offset, end offset, kind, body) of the durable entries from ``start`` on.

        ``start`` is 0 or an end offset seen before. Covers what is durable now; entries of kinds
        that this version does not know are left out.
        """
        for found in self._scan(max(start, HEADER_BYTES), self.size):
            if isinstance(found, Scanned) and found.kind in _KINDS:
                yield found.offset, found.end_offset, Entry(found.kind), found.body

    def inspect(self, end: int) -> Iterator[Scanned | Damage]:
        """Yield every durable entry below ``end`` as it lies on the disk now, and the damage
        between and behind them; entries of kinds that this version does not know too.
        """
        there = min(end, os.fstat(self._fd).st_size)  # somebody may have cut the file under us
        position = HEADER_BYTES
        for found in self._scan(position, there):
            position = found.end_offset
            yield found
        if position < end:
            yield Damage(position, end)

    def read(self, offset: int) -> bytes:
        """Return the body of the durable entry at ``offset``; raises ``JournalDamagedError`` if
        it rotted.
        """
        head = os.pread(self._fd, HEAD_BYTES, offset)
        length = body_length(head, 0, self._salt)
        entry = None
        if length is not None:
            entry = entry_at(os.pread(self._fd, HEAD_BYTES + length, offset), 0, self._salt)
        if entry is None:
            raise JournalDamagedError(
                f"the entry at byte {offset} of {self.path} is damaged", offset=offset
            )
        return entry.body

    def close(self) -> None:
        """Release the file and its lock; ``run`` must have ended or never started."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._close("the journal is closed")

    def _recover(self) -> None:
        """Find the durable end and cut what is behind it, on the disk too, before anything is
        added.
        """
        file_size = os.fstat(self._fd).st_size
        for found in self._scan(HEADER_BYTES, file_size):
            if isinstance(found, Damage):
                self.damage.append(found)
            else:
                self.size = found.end_offset
        self.opened_at = self.size
        self.tail_cut_bytes = file_size - self.size
        if self.tail_cut_bytes:
            os.ftruncate(self._fd, self.size)
            os.fsync(self._fd)
        if self.tail_cut_bytes or self.damage:
            log.warning(
                "journal repaired",
                extra={"tail_cut_bytes": self.tail_cut_bytes, "damaged": len(self.damage)},
            )

    def _scan(self, start: int, end: int) -> Iterator[Scanned | Damage]:
        if start >= end:
            return
        with mmap.mmap(self._fd, end, access=mmap.ACCESS_READ) as content:
            # A map reads, slices and searches like bytes, without holding the whole file in memory.
            yield from scan(cast("bytes", content), self._salt, start)

    async def _write_all(self) -> None:
        while self._waiting:
            # Not to be abandoned: a batch that was taken must be written and settled, and its fate
            # known before the next one starts.
            with trio.CancelScope(shield=True):
                await self._write_batch(self._take_batch())

    async def _write_batch(self, batch: list[Pending]) -> None:
        content = b"".join(waiting.encoded for waiting in batch)
        try:
            await self._offload(partial(_write, self._fd, self.size, content))
        except OSError as error:
            self._refuse(batch, error)
        else:
            self._keep(batch)

    def _take_batch(self) -> list[Pending]:
        count = size = 0
        for waiting in self._waiting:
            size += len(waiting.encoded)
            if count and size > MAX_JOURNAL_BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _keep(self, batch: list[Pending]) -> None:
        for waiting in batch:
            offset = self.size
            self.size += len(waiting.encoded)
            self._backlog_bytes -= len(waiting.encoded)
            waiting.settle(offset)
        self._moved.set()
        self._moved = trio.Event()
        if self.size > self._awaited:
            self._awaited = math.inf
            self._passed.set()
            self._passed = trio.Event()

    def _refuse(self, batch: list[Pending], cause: OSError) -> None:
        refused = batch + self._waiting
        self._waiting = []
        self._backlog_bytes = 0
        is_full = cause.errno in NO_SPACE
        for waiting in refused:
            waiting.settle(_full(self.path, cause) if is_full else _broken(self.path, cause))
        self._moved.set()
        self._moved = trio.Event()
        if not is_full:
            raise _broken(self.path, cause) from cause

    def _close(self, reason: str) -> None:
        self._closed = self._closed or JournalError(reason, code="journal-closed")
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            entry.settle(self._closed)
        self._moved.set()


def _in_a_thread() -> Offload:
    writer = trio.CapacityLimiter(1)  # the one thread that writes this journal

    async def offload(function: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(function, limiter=writer)

    return offload


def _full(path: Path, cause: OSError) -> JournalFullError:
    error = JournalFullError(
        f"the disk that holds {path.name} is full",
        hint=f"free space on the disk of {path.parent}; nothing has to be restarted",
    )
    error.__cause__ = cause
    return error


def _broken(path: Path, cause: OSError) -> JournalError:
    error = JournalError(f"the disk failed under {path.name}: {cause.strerror}", code="disk-failed")
    error.__cause__ = cause
    return error


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise JournalBusyError(
            f"another process has {path} open", hint="stop it first, or use another home"
        ) from error


def _read_salt(fd: int) -> bytes | None:
    return decode_header(os.pread(fd, HEADER_BYTES, 0))


def _create(fd: int, path: Path, salt: bytes) -> None:
    """Write the header. Nothing can have been appended before it was durable, so a torn one is
    new.
    """
    os.ftruncate(fd, 0)
    _write(fd, 0, encode_header(salt))
    os.fsync(fd)
    # Without this the file itself may be gone after power loss, whatever was fsynced into it.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(fd: int, offset: int, content: bytes) -> None:
    """Write and fsync ``content``; on any error take it back, so that no part of it stays
    behind.
    """
    try:
        rest = memoryview(content)
        position = offset
        while rest:
            written = os.pwrite(fd, rest, position)
            rest = rest[written:]
            position += written
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, offset)
        raise
