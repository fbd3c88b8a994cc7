"""The segments of one journal: a folder of files, each named by the offset at which it starts.

Offsets ascend over all segments as if they were one file. A new segment is on the disk before the
one in front of it is left alone, so only the last can have a torn tail; where one in the middle is
missing, that is damage like any other.

``append``, ``rotate`` and ``rewrite`` are one caller's at a time; reading is anybody's.
"""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

from peer.journal_errors import JournalBusyError, JournalDamagedError, JournalErasedError
from peer.machine import NO_SPACE
from peer.segment import REPLACING, Segment, append, read_entry, salt_in, sync_folder
from protocols.journal import FILLER, HEAD_BYTES, HEADER_BYTES, Damage, Scanned
from protocols.limits import SEGMENT_BYTES

T = TypeVar("T")

_CUT: Final = "tail-cut"
"""The empty file that says that a torn tail was cut off, until that was dealt with."""

_MOVING: Final = ".moving"
"""What the folder is called while the one file of an earlier version moves into it."""


class Segments:
    """Every segment in one folder, which is locked while this is open; made by ``open``."""

    def __init__(self, folder: Path, lock: int, salt: bytes) -> None:
        self.path = folder
        self.salt = salt
        self._lock = lock
        self._list = _listed(folder)
        tail = self._list[-1]
        self._tail = tail.create(salt) if tail.is_unwritten else tail.open()
        self.end = tail.end
        """The offset behind the last byte."""
        self._is_torn = False
        """Whether there is something behind that which is no part of the journal."""
        self._reading: tuple[int, int] | None = None
        """Start and descriptor of the segment that was read last; not the one that is written
        with, which another thread may close.
        """
        self.stained: set[int] = set()
        """The starts of segments in which readers met damaged bytes since they were opened or
        rewritten.
        """

    @classmethod
    def open(cls, folder: Path, salt: bytes) -> Segments:
        """Open or create the segments in ``folder``; ``salt`` is that of a new journal.

        One file of an earlier version becomes the first segment. Raises ``JournalBusyError`` when
        another process has them, ``JournalDamagedError`` when no file there starts like a journal.
        """
        _take_over(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(lock, folder)
            for left_over in folder.glob(f"*{REPLACING}"):
                left_over.unlink()
            known = _listed(folder)
            if not known or (len(known) == 1 and _is_new(known[0])):
                os.close(Segment(folder, 0).create(salt))
                sync_folder(folder.parent)
            return cls(folder, lock, _salt_of(folder))
        except BaseException:
            os.close(lock)
            raise

    def __len__(self) -> int:
        return len(self._list)

    @property
    def tail(self) -> Segment:
        """The segment that is appended to."""
        return self._list[-1]

    def sealed(self) -> list[tuple[int, int]]:
        """Return where each segment but the last starts and ends."""
        starts = [segment.start for segment in list(self._list)]
        return list(pairwise(starts))

    @property
    def disk_bytes(self) -> int:
        """What all of them take on the disk."""
        return sum(segment.disk_bytes for segment in list(self._list))

    def close(self) -> None:
        """Release the files and the lock."""
        self._stop_reading()
        for fd in (self._tail, self._lock):
            if fd >= 0:
                os.close(fd)
        self._tail = self._lock = -1

    # Reading

    def found(self, start: int, end: int) -> Iterator[Scanned | Damage]:
        """Yield what lies between two offsets: entries, and the damage between them."""
        known = list(self._list)
        at = max(0, bisect_right(known, start, key=_start_of) - 1)
        position = start
        for segment, following in zip(known[at:], [*known[at + 1 :], None], strict=True):
            if segment.start >= end:
                break
            if position < segment.start:
                yield Damage(position, segment.start)
            position = max(position, segment.first)
            stop = end if following is None else min(end, following.start)
            for part in segment.found(self.salt, position, stop):
                if isinstance(part, Damage):
                    self.stained.add(segment.start)
                yield part
                position = part.end_offset
            if following is not None and following.start <= end and position < following.start:
                self.stained.add(segment.start)  # its last entry, or all of it
                yield Damage(position, following.start)
                position = following.start

    def first_from(self, offset: int) -> int:
        """Return where the next entry can be, from ``offset`` on: a segment begins with no
        entry.
        """
        return max(offset, self._over(offset).first)

    def read(self, offset: int) -> Scanned:
        """Return the whole entry at ``offset``; raises ``JournalDamagedError`` or
        ``JournalErasedError`` if there is none. For one thread.
        """
        segment = self._over(offset)
        found = None
        if offset >= segment.start:
            with suppress(FileNotFoundError):
                found = read_entry(self._descriptor(segment), offset - segment.start, self.salt)
        if found is None or found.kind == FILLER:
            raise self._absent(offset)
        return Scanned(offset, offset + found.end_offset, found.kind, found.body)

    def _over(self, offset: int) -> Segment:
        return self._list[max(0, bisect_right(self._list, offset, key=_start_of) - 1)]

    def _descriptor(self, segment: Segment) -> int:
        if self._reading is None or self._reading[0] != segment.start:
            self._stop_reading()
            self._reading = segment.start, segment.open()
        return self._reading[1]

    def _stop_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None

    def _absent(self, offset: int) -> JournalDamagedError:
        segment = self._over(offset)
        for part in segment.found(self.salt, segment.first, self.end):
            is_filler = isinstance(part, Scanned) and part.kind == FILLER
            if is_filler and part.offset <= offset < part.end_offset:
                return JournalErasedError(f"the entry at byte {offset} was erased", offset=offset)
        return JournalDamagedError(
            f"the entry at byte {offset} of {self.path} is damaged", offset=offset
        )

    # Writing

    @property
    def is_cut(self) -> bool:
        """Whether a torn tail was cut off, now or at an earlier start, that nobody has
        ``settle_cut`` since.
        """
        return self._is_torn or (self.path / _CUT).exists()

    def settle_cut(self) -> None:
        """Forget that a torn tail was cut off. A crash may bring it back."""
        (self.path / _CUT).unlink(missing_ok=True)

    def cut(self, end: int) -> None:
        """Cut what is behind ``end`` off the last segment, on the disk too, and first that it
        was; on a full disk, before anything is written.
        """
        self.end, self._is_torn = end, True
        try:
            self._cut_torn()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise

    def _cut_torn(self) -> None:
        if self._is_torn:
            (self.path / _CUT).touch(mode=0o600)
            sync_folder(self.path)
            os.ftruncate(self._tail, self.end - self.tail.start)
            os.fsync(self._tail)
            self._is_torn = False

    def append(self, content: bytes) -> None:
        """Write and fsync ``content`` at the end, in a new segment if the last is full; on any
        error nothing of it stays behind.
        """
        self._cut_torn()
        if self.end - self.tail.start >= SEGMENT_BYTES:
            self.rotate()
        append(self._tail, self.end - self.tail.start, content)
        self.end += len(content)

    def rotate(self) -> None:
        """Begin a new segment: the last one is left alone from now on."""
        self._cut_torn()
        following = Segment(self.path, self.end)
        try:
            fd = following.create(self.salt)
        except OSError:
            following.path.unlink(missing_ok=True)
            raise
        sealed, self._tail = self._tail, fd
        self._list.append(following)
        os.close(sealed)
        self.end = following.first

    def rewrite(
        self,
        changes: Mapping[int, bytes | None],
        healed: Collection[Damage] = (),
        also: Collection[int] = (),
    ) -> None:
        """Make ``changes`` in segments before the last, one after the other, each as a whole, and
        rid them of damaged bytes; those that start at ``also`` of these only.
        """
        changed = _by(lambda at: self._over(at).start, changes)
        forgotten = _by(lambda damage: self._over(damage.offset).start, healed)
        for start in sorted({*changed, *forgotten, *also}):
            part = {offset: changes[offset] for offset in changed.get(start, ())}
            Segment(self.path, start).replace(self.salt, part, forgotten.get(start, ()))
            self.stained.discard(start)

    def is_fillable(self, damage: Damage) -> bool:
        """Say whether ``rewrite`` can let damaged bytes be healed: they lie in one segment."""
        is_large = damage.end_offset - damage.offset >= HEAD_BYTES
        return is_large and damage.end_offset <= self._over(damage.offset).end

    def replaced(self) -> None:
        """Read what ``rewrite`` put in place from now on; called from the thread that reads."""
        self._stop_reading()


def _start_of(segment: Segment) -> int:
    return segment.start


def _by(start_of: Callable[[T], int], items: Iterable[T]) -> dict[int, list[T]]:
    grouped: dict[int, list[T]] = {}
    for item in items:
        grouped.setdefault(start_of(item), []).append(item)
    return grouped


def _listed(folder: Path) -> list[Segment]:
    found = (Segment.at(path) for path in folder.iterdir())
    return sorted((segment for segment in found if segment is not None), key=_start_of)


def _is_new(segment: Segment) -> bool:
    """Say whether a journal's only segment holds nothing, not even a header."""
    return segment.start == 0 and segment.is_unwritten and segment.salt() is None


def _salt_of(folder: Path) -> bytes:
    """Return the salt that all segments share: one whole header among them is enough."""
    for segment in _listed(folder):
        salt = segment.salt()
        if salt is not None:
            return salt
    raise _no_journal(folder)


def _no_journal(path: Path) -> JournalDamagedError:
    return JournalDamagedError(
        f"{path} does not start like a journal",
        hint="restore it from a copy, or move it away: others hold what you shared",
    )


def _take_over(path: Path) -> None:
    """Make the one file of an earlier version the first segment, whenever this was interrupted."""
    moving = path.with_name(path.name + _MOVING)
    first = Segment(moving, 0)
    if path.is_file():
        old = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(old, path)
            if os.fstat(old).st_size > HEADER_BYTES and salt_in(path) is None:
                raise _no_journal(path)
            moving.mkdir(mode=0o700, exist_ok=True)
            path.rename(first.path)
            sync_folder(moving)
            sync_folder(path.parent)
        finally:
            os.close(old)
    if not path.exists() and first.path.exists():
        moving.rename(path)
        sync_folder(path.parent)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise JournalBusyError(
            f"another process has {path} open", hint="stop it first, or use another home"
        ) from error
