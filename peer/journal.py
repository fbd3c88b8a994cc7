"""The journal: an append-only log that is the only truth about what this peer has promised to
remember.

``append`` returns once its entry is on the disk. Those who wait are batched by themselves: while
one fsync runs in its thread the next batch gathers, so many writers share one fsync and one writer
waits for nobody. Everything else that a peer keeps (databases, indices) follows the journal and can
be deleted.

It lies in segments, a file each. ``rewrite`` shortens or erases entries that are there; all others
keep their offsets for ever.

When the disk is full the batch is refused and its bytes are taken back; whoever frees space need
not restart anything. Any other error of the disk ends ``run``, and with it the process: after a
failed fsync nobody knows what is on the disk, and guessing is how acknowledged data gets lost.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import trio

from peer.backlog import Backlog
from peer.journal_errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalErasedError,
    JournalError,
    JournalFullError,
    disk_error,
)
from peer.pending import Done, Pending
from peer.segments import Segments
from protocols.journal import (
    FILLER,
    SALT_BYTES,
    Damage,
    Entry,
    Scanned,
    encode_entry,
)
from protocols.limits import JOURNAL_COMPANY_S

__all__ = [
    "Done",
    "Journal",
    "JournalBusyError",
    "JournalDamagedError",
    "JournalErasedError",
    "JournalError",
    "JournalFullError",
    "Offload",
    "Pending",
]

log = logging.getLogger(__name__)

_KINDS = frozenset(Entry)

Offload = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a blocking function somewhere and waits for it to end."""


class Journal:
    """One journal, open for writing by this process alone.

    Made by ``open``. ``run`` does the writing; entries appended before it starts wait for it.
    Whoever opened it closes it, after ``run`` has ended.
    """

    def __init__(self, segments: Segments, write: Offload, rewrite: Offload) -> None:
        self.path = segments.path
        self._segments = segments
        self._offload = write
        self._offload_rewrite = rewrite
        self._disk = trio.Lock()
        """Held while the end is written to."""
        self._rewriting = trio.Lock()
        self.size = segments.end
        """The durable end: what is below it survives power loss."""
        self.opened_at = segments.end
        """The durable end that ``open`` found: what was written before lies in front of it."""
        self.tail_cut_bytes = 0
        """How many bytes of a torn tail ``open`` cut off behind that end."""
        self.damage: list[Damage] = []
        """Where ``open``, or a check since, found damage in front of whole entries: it is skipped
        until it is healed."""
        self._backlog = Backlog()
        self._closed: JournalError | None = None
        self._stirred = trio.Event()
        self._patience = trio.CancelScope()
        """Ends when an entry that could wait for company has waited long enough."""
        self._passed = trio.Event()
        self._awaited = math.inf
        """The lowest offset that somebody waits for in ``wait_past``."""

    @classmethod
    def open(
        cls, path: Path, *, salt: bytes | None = None, offload: Offload | None = None
    ) -> Journal:
        """Open or create the journal in the folder ``path``, lock it, and cut a torn tail. What an
        earlier version kept in one file is taken over.

        ``salt`` fixes a new journal's salt. ``offload`` says where the disk is waited for: a
        thread, unless the caller's clock is virtual and would run on meanwhile. Raises
        ``JournalBusyError`` when another process has it, ``JournalDamagedError`` when what is there
        is no journal.
        """
        segments = Segments.open(path, salt or secrets.token_bytes(SALT_BYTES))
        try:
            journal = cls(segments, offload or _in_a_thread(), offload or _in_a_thread())
            journal._recover()
        except BaseException:
            segments.close()
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
        self._check_room()
        pending = Pending(encode_entry(self._segments.salt, kind, body), done)
        self._backlog.add(pending)
        if can_wait:
            self._be_patient()
        else:
            self._stirred.set()
        return pending

    def append_growing(self, kind: Entry, body: Callable[[], bytes]) -> Pending:
        """Queue an entry whose ``body`` is asked for when it is written, and may grow while it
        ``is_growing``. It can wait, and is refused, as those of ``append_soon``.
        """
        self._check_room()
        salt = self._segments.salt
        pending = Pending(b"", grow=lambda: encode_entry(salt, kind, body()))
        self._backlog.add(pending)
        self._be_patient()
        return pending

    def join(self, growing: Pending, size_bytes: int) -> None:
        """Count what joins a growing entry; raises ``JournalFullError`` as ``append_soon`` does."""
        self._check_room()
        self._backlog.join(growing, size_bytes)

    def _check_room(self) -> None:
        if self._closed is not None:
            raise self._closed
        self._backlog.check_room()

    def _be_patient(self) -> None:
        if self._patience.deadline == math.inf:  # else another waits already, and is due before
            self._patience.deadline = trio.current_time() + JOURNAL_COMPANY_S

    async def wait_room(self) -> None:
        """Return when ``append_soon`` would accept an entry."""
        await self._backlog.wait_room()

    async def wait_past(self, offset: int) -> None:
        """Return when the durable end is past ``offset``."""
        await trio.lowlevel.checkpoint()  # a follower far behind must not starve the others
        while self.size <= offset:
            # Not ``_moved``: a follower that waits for megabytes need not be woken at each batch.
            self._awaited = min(self._awaited, offset)
            await self._passed.wait()

    async def rewrite(
        self, changes: Mapping[int, bytes | None], healed: Collection[Damage] = ()
    ) -> None:
        """Give durable entries, by offset, another body that is not longer, or none: such an entry
        is erased, and its room on the disk given back.

        So is that of the damaged bytes of the same segments, of which nobody can tell what they
        were. They stay known as damage, but for those that are ``healed``: nothing is missed there.

        On return it is on the disk. Each segment changes as a whole, in the order of their offsets,
        and a crash leaves the rest as it was: doing it again does the rest. Readers that are under
        way may still see what was there. What is erased already stays so. Raises
        ``LocalProtocolError`` when a body does not fit or no whole entry is or was at an offset,
        and ``JournalFullError``; that segment and those behind it stay as they are then.
        """
        await self._rewrite(changes, healed)

    async def clean(self, changes: Mapping[int, bytes | None]) -> None:
        """Do as ``rewrite``, and rid all other segments of the damaged bytes that anybody has met
        there.
        """
        await self._rewrite(changes, also=frozenset(self._segments.stained))

    def may_heal(self, damage: Damage) -> bool:
        """Say whether ``rewrite`` can fill these damaged bytes: they are no missing segment."""
        return self._segments.is_fillable(damage)

    @property
    def is_stained(self) -> bool:
        """Whether anybody has met damaged bytes since the start that may still be there."""
        return bool(self._segments.stained)

    async def _rewrite(
        self,
        changes: Mapping[int, bytes | None],
        healed: Collection[Damage] = (),
        also: Collection[int] = (),
    ) -> None:
        touched = [*changes, *(damage.offset for damage in healed), *also]
        async with self._rewriting:
            if self._closed is not None:
                raise self._closed
            if touched and max(touched) >= self._segments.tail.start:
                await self._seal()
            try:
                with trio.CancelScope(shield=True):
                    rewrite = partial(self._segments.rewrite, changes, healed, also)
                    await self._offload_rewrite(rewrite)
            except OSError as error:
                raise disk_error(self.path, error) from error
            finally:
                self._segments.replaced()

    async def _seal(self) -> None:
        """Let the last segment be, so that it can be replaced."""
        async with self._disk:
            try:
                with trio.CancelScope(shield=True):
                    await self._offload(self._segments.rotate)
            except OSError as error:
                raise disk_error(self.path, error) from error
            self.size = self._segments.end

    def scan(self, start: int = 0) -> Iterator[tuple[int, int, Entry, bytes]]:
        """Yield (offset, end offset, kind, body) of the durable entries from ``start`` on.

        ``start`` is 0 or an end offset seen before. Covers what is durable now; entries of kinds
        that this version does not know are left out.
        """
        for found in self._segments.found(start, self.size):
            if isinstance(found, Scanned) and found.kind in _KINDS:
                yield found.offset, found.end_offset, Entry(found.kind), found.body

    def inspect(self, end: int, start: int = 0) -> Iterator[Scanned | Damage]:
        """Yield every durable entry from ``start`` to ``end`` as it lies on the disk now, and the
        damage between and behind them; entries of kinds that this version does not know too.
        """
        position = start
        for found in self._segments.found(start, end):
            position = found.end_offset
            if isinstance(found, Damage) or found.kind != FILLER:
                yield found
        position = max(position, self._segments.first_from(position))
        if position < end:
            yield Damage(position, end)

    def read(self, offset: int) -> bytes:
        """Return the body of the durable entry at ``offset``; raises ``JournalDamagedError`` if
        it rotted, ``JournalErasedError`` if it is gone.
        """
        return self.entry(offset).body

    def entry(self, offset: int) -> Scanned:
        """Return the durable entry at ``offset``; raises as ``read`` does."""
        return self._segments.read(offset)

    async def aside(self, work: Callable[[], None]) -> None:
        """Do something that reads much of the journal where nobody waits for it."""
        await self._offload_rewrite(work)

    def sealed(self) -> list[tuple[int, int]]:
        """Return where each segment starts and ends that nothing is appended to any more."""
        return self._segments.sealed()

    @property
    def segments(self) -> int:
        """How many files there are."""
        return len(self._segments)

    @property
    def disk_bytes(self) -> int:
        """What the journal takes on the disk: less than ``size`` where something was erased."""
        return self._segments.disk_bytes

    @property
    def has_lost_tail(self) -> bool:
        """Whether a torn tail was cut off, by ``open`` or an earlier one, and what may have been in
        it is not dealt with yet.
        """
        return self._segments.is_cut

    def settle_tail(self) -> None:
        """Say that what may have been in a torn tail is dealt with, on the disk too."""
        self._segments.settle_cut()

    def close(self) -> None:
        """Release the files and their lock; ``run`` must have ended or never started."""
        self._segments.close()
        self._close("the journal is closed")

    def _recover(self) -> None:
        """Find the durable end and cut what is behind it, on the disk too, before anything is
        added.
        """
        file_end, tail = self._segments.end, self._segments.tail
        self.size = tail.first
        for found in self._segments.found(0, file_end):
            if isinstance(found, Damage):
                self.damage.append(found)
            self.size = max(self.size, found.end_offset)
        self.opened_at = self.size
        self.tail_cut_bytes = file_end - self.size
        if self.tail_cut_bytes:
            try:
                self._segments.cut(self.size)
            except OSError as error:
                raise disk_error(self.path, error) from error
        if self.tail_cut_bytes or self.damage:
            log.warning(
                "journal repaired" if self.tail_cut_bytes else "journal damaged",
                extra={"tail_cut_bytes": self.tail_cut_bytes, "damaged": len(self.damage)},
            )

    async def _write_all(self) -> None:
        while self._backlog:
            # Not to be abandoned: a batch that was taken must be written and settled, and its fate
            # known before the next one starts.
            with trio.CancelScope(shield=True):
                await self._write_batch(self._backlog.take())

    async def _write_batch(self, batch: list[Pending]) -> None:
        content = b"".join(waiting.encoded for waiting in batch)
        try:
            async with self._disk:
                await self._offload(partial(self._segments.append, content))
        except OSError as error:
            self._refuse(batch, error)
        else:
            self._keep(batch, self._segments.end - len(content))

    def _keep(self, batch: list[Pending], offset: int) -> None:
        self.size = self._segments.end
        self._backlog.keep(batch, offset)
        if self.size > self._awaited:
            self._awaited = math.inf
            self._passed.set()
            self._passed = trio.Event()

    def _refuse(self, batch: list[Pending], cause: OSError) -> None:
        why = partial(disk_error, self.path, cause)
        self._backlog.refuse(batch, why)
        if not isinstance(error := why(), JournalFullError):
            raise error

    def _close(self, reason: str) -> None:
        closed = self._closed = self._closed or JournalError(reason, code="journal-closed")
        self._backlog.refuse([], lambda: closed)


def _in_a_thread() -> Offload:
    writer = trio.CapacityLimiter(1)  # the one thread that writes this journal

    async def offload(function: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(function, limiter=writer)

    return offload
