"""One segment of a journal: a file that holds the entries from one offset to the next segment's.

Everything blocks. A segment is appended to until the next one begins; from then on it changes only
as a whole, when a new file takes its place.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from protocols.journal import (
    HEAD_BYTES,
    HEADER_BYTES,
    Damage,
    Scanned,
    body_length,
    decode_header,
    encode_header,
    entry_at,
    scan,
)
from protocols.journal_rewrite import Kept, Piece, rewritten

SUFFIX: Final = ".segment"
REPLACING: Final = ".replacing"
"""What a new file is called until it takes its segment's place."""
_START_DIGITS: Final = 16
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class Segment:
    """The segment that starts at offset ``start`` of a journal's; its file has a name made of
    it.
    """

    __slots__ = ("path", "start")

    def __init__(self, folder: Path, start: int) -> None:
        self.start = start
        self.path = folder / f"{start:0{_START_DIGITS}}{SUFFIX}"

    @classmethod
    def at(cls, path: Path) -> Segment | None:
        """Return the segment in the file ``path``, or none if its name is not that of one."""
        digits = path.name.removesuffix(SUFFIX)
        is_named = path.suffix == SUFFIX and digits.isdecimal() and len(digits) >= _START_DIGITS
        return cls(path.parent, int(digits)) if is_named else None

    @property
    def first(self) -> int:
        """The offset of its first entry."""
        return self.start + HEADER_BYTES

    @property
    def end(self) -> int:
        """The offset behind its last byte, as it lies on the disk now."""
        return self.start + self.path.stat().st_size

    @property
    def disk_bytes(self) -> int:
        """What it takes on the disk; holes take nothing."""
        return self.path.stat().st_blocks * 512

    def salt(self) -> bytes | None:
        """Return the salt that its header tells; none when both copies are damaged."""
        return salt_in(self.path)

    @property
    def is_unwritten(self) -> bool:
        """Whether making it was interrupted: nothing can have been appended to it."""
        size = self.path.stat().st_size
        return size < HEADER_BYTES or (size == HEADER_BYTES and self.salt() is None)

    def open(self) -> int:
        """Return a descriptor to read and append with."""
        return os.open(self.path, _FLAGS & ~os.O_CREAT)

    def create(self, salt: bytes) -> int:
        """Make the file with its header, on the disk, and return a descriptor of it. What there
        was of it (a header torn at its creation) is written anew.
        """
        fd = os.open(self.path, _FLAGS | os.O_TRUNC, 0o600)
        try:
            write_all(fd, 0, encode_header(salt))
            os.fsync(fd)
            # Without this the file may be gone after power loss, whatever was fsynced into it.
            sync_folder(self.path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def found(self, salt: bytes, start: int, end: int) -> Iterator[Scanned | Damage]:
        """Yield the entries that lie between two of the journal's offsets, and the damage between
        them.

        A file that is gone holds nothing, and one that another takes the place of meanwhile is
        read to its end.
        """
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            length = min(end - self.start, os.fstat(file.fileno()).st_size)
            if length <= start - self.start:
                return
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as content:
                # A map reads, slices and searches like bytes, without holding the file in memory.
                parts = scan(cast("bytes", content), salt, start - self.start)
                yield from parts if not self.start else _moved(parts, self.start)

    def replace(
        self, salt: bytes, changes: Mapping[int, bytes | None], healed: Iterable[Damage] = ()
    ) -> None:
        """Put a file in this one's place that differs by ``changes``, by offset, and has holes
        where something is gone or damaged; see ``rewritten``. Whenever it stops, on the disk is the
        one or the other.
        """
        new = self.path.with_suffix(REPLACING)
        local = {offset - self.start: body for offset, body in changes.items()}
        forgotten = {Damage(at - self.start, end - self.start) for at, end in healed}
        try:
            with self.path.open("rb") as old, new.open("wb", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                with mmap.mmap(old.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    buffer = cast("bytes", content)
                    for piece in rewritten(buffer, salt, local, forgotten):
                        _put(file.fileno(), buffer, piece)
                    os.ftruncate(file.fileno(), len(content))  # it may end in a hole
                os.fsync(file.fileno())
            new.rename(self.path)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        sync_folder(self.path.parent)


def salt_in(path: Path) -> bytes | None:
    """Return the salt that the header of a segment tells; none when both copies are damaged."""
    with path.open("rb") as file:
        return decode_header(file.read(HEADER_BYTES))


def read_entry(fd: int, position: int, salt: bytes) -> Scanned | None:
    """Return the whole entry at ``position`` of a segment's file, with offsets from there."""
    head = os.pread(fd, HEAD_BYTES, position)
    length = body_length(head, 0, salt)
    return (
        None if length is None else entry_at(os.pread(fd, HEAD_BYTES + length, position), 0, salt)
    )


def append(fd: int, position: int, content: bytes) -> None:
    """Write and fsync ``content``; on any error take it back, so that no part of it stays
    behind.
    """
    try:
        write_all(fd, position, content)
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, position)
        raise


def write_all(fd: int, position: int, content: bytes | memoryview) -> None:
    """Write ``content`` at ``position``, in as many pieces as the system takes it."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(fd, rest, position)
        rest = rest[written:]
        position += written


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _put(fd: int, old: bytes, piece: Piece) -> None:
    if isinstance(piece, Kept):
        with memoryview(old) as content, content[piece.start : piece.end] as kept:
            write_all(fd, piece.start, kept)
    else:
        write_all(fd, piece.position, piece.content)


def _moved(parts: Iterator[Scanned | Damage], by: int) -> Iterator[Scanned | Damage]:
    for part in parts:
        if isinstance(part, Scanned):
            yield Scanned(part.offset + by, part.end_offset + by, part.kind, part.body)
        else:
            yield Damage(part.offset + by, part.end_offset + by)
