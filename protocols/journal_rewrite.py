"""What a segment holds once some of its entries are shortened or erased, and where.

Every other entry stays at its offset, because links, marks and indices name offsets. What is gone
becomes fillers; neighbours share one, so that nothing has to be written between them and the file
system can take the blocks back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from protocols.errors import LocalProtocolError
from protocols.journal import (
    FILLER,
    HEAD_BYTES,
    HEADER_BYTES,
    Scanned,
    encode_entry,
    encode_filler,
    encode_header,
    encode_padded,
    scan,
)
from protocols.limits import MAX_FILLER_BYTES


class Kept(NamedTuple):
    """Bytes that stay as they are, damaged ones too."""

    start: int
    end: int


class Written(NamedTuple):
    """Bytes that are new at their position."""

    position: int
    content: bytes


Piece = Kept | Written


def rewritten(buffer: bytes, salt: bytes, changes: Mapping[int, bytes | None]) -> Iterator[Piece]:
    """Yield, in order, what a segment of the bytes ``buffer`` holds after ``changes``; between the
    pieces may be holes.

    ``changes`` gives entries, by position, another body that is not longer, or none at all. What
    is gone stays so: others may have erased it since the change was thought of. Raises
    ``LocalProtocolError``, at the end at the latest, for a body that does not fit or where no entry
    is or was.
    """
    yield Written(0, encode_header(salt))
    stretch, left, fillers = _Stretch(salt), dict(changes), list[Scanned]()
    for found in scan(buffer, salt, HEADER_BYTES):
        if not isinstance(found, Scanned):
            yield from stretch.add(found.end_offset, is_gap=False)
            continue
        if found.kind == FILLER:
            fillers.append(found)
            yield from stretch.add(found.end_offset, is_gap=True)
            continue
        body = left.pop(found.offset, None) if (is_changed := found.offset in left) else None
        if body is None:
            yield from stretch.add(found.end_offset, is_gap=is_changed)
        else:
            yield from stretch.close()
            yield (written := _shortened(found, body, salt))
            stretch.start = stretch.end = found.offset + len(written.content)
            yield from stretch.add(found.end_offset, is_gap=True)
    yield from stretch.add(len(buffer), is_gap=False)
    yield from stretch.close()
    for at in left:
        if not _is_gone(at, fillers):
            raise LocalProtocolError(f"there is no entry at byte {at} of a segment to change")


class _Stretch:
    """Neighbouring bytes that have the same fate."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._is_gap = False
        self.start = self.end = HEADER_BYTES

    def add(self, end: int, *, is_gap: bool) -> Iterator[Piece]:
        """Go on up to ``end``; yield what ends there."""
        is_too_long = is_gap and end - self.start > MAX_FILLER_BYTES
        if is_gap != self._is_gap or is_too_long:
            yield from self.close()
        self._is_gap, self.end = is_gap, end

    def close(self) -> Iterator[Piece]:
        """End here; yield what there was."""
        if self.start < self.end:
            size = self.end - self.start
            filler = Written(self.start, encode_filler(self._salt, size)) if self._is_gap else None
            yield filler or Kept(self.start, self.end)
        self.start = self.end


def _is_gone(at: int, fillers: list[Scanned]) -> bool:
    return any(filler.offset <= at < filler.end_offset for filler in fillers)


def _shortened(entry: Scanned, body: bytes, salt: bytes) -> Written:
    room = entry.end_offset - entry.offset - HEAD_BYTES
    spare = room - len(body)
    if spare < 0:
        raise LocalProtocolError(f"{len(body)} bytes do not fit into an entry of {room}")
    if 0 < spare < HEAD_BYTES:  # no room for a filler's head
        return Written(entry.offset, encode_padded(salt, entry.kind, body, spare))
    return Written(entry.offset, encode_entry(salt, entry.kind, body))
