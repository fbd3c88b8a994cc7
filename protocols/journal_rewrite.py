"""What a segment holds once some of its entries are shortened or erased, and where.

Every other entry stays at its offset, because links, marks and indices name offsets. What is gone
becomes fillers; neighbours share one, so that nothing has to be written between them and the file
system can take the blocks back.

Damaged bytes become holes without a filler: nobody can read what they were, so a person's words
could stay among them for ever. They stay damage all the same, in the same place, because a
signature may have been there. Only what is *healed*, of which nothing is missed any more, becomes a
filler like all that is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from protocols.errors import LocalProtocolError
from protocols.journal import (
    FILLER,
    HEAD_BYTES,
    HEADER_BYTES,
    Damage,
    Scanned,
    encode_entry,
    encode_filler,
    encode_header,
    encode_padded,
    scan,
)
from protocols.limits import MAX_FILLER_BYTES


class Kept(NamedTuple):
    """Bytes that stay as they are."""

    start: int
    end: int


class Written(NamedTuple):
    """Bytes that are new at their position."""

    position: int
    content: bytes


Piece = Kept | Written


class _Fate(Enum):
    """What becomes of bytes: they stay, a filler stands for them, or a hole and nothing."""

    KEPT = auto()
    GONE = auto()
    BLANK = auto()


def rewritten(
    buffer: bytes,
    salt: bytes,
    changes: Mapping[int, bytes | None],
    healed: Collection[Damage] = (),
) -> Iterator[Piece]:
    """Yield, in order, what a segment of the bytes ``buffer`` holds after ``changes``; between the
    pieces are holes.

    ``changes`` gives entries, by position, another body that is not longer, or none at all. What
    is gone stays so: others may have erased it since the change was thought of. Of ``healed``
    damage nothing is left, of other damage its place. Raises ``LocalProtocolError``, at the end at
    the latest, for a body that does not fit or where no entry is or may have been.
    """
    yield Written(0, encode_header(salt))
    stretch, left, gone = _Stretch(salt), dict(changes), list[tuple[int, int]]()
    for found in scan(buffer, salt, HEADER_BYTES):
        if isinstance(found, Damage):
            gone.append(found)
            yield from stretch.add(found.end_offset, _fate_of(found, healed))
            continue
        if found.kind == FILLER:
            gone.append(found[:2])
            yield from stretch.add(found.end_offset, _Fate.GONE)
            continue
        body = left.pop(found.offset, None) if (is_changed := found.offset in left) else None
        if body is None:
            fate = _Fate.GONE if is_changed else _Fate.KEPT
            yield from stretch.add(found.end_offset, fate)
        else:
            yield from stretch.close()
            yield (written := _shortened(found, body, salt))
            stretch.start = stretch.end = found.offset + len(written.content)
            yield from stretch.add(found.end_offset, _Fate.GONE)
    rest = Damage(stretch.end, len(buffer))
    gone.append(rest)
    yield from stretch.add(len(buffer), _fate_of(rest, healed))
    yield from stretch.close()
    for at in left:
        if not any(start <= at < end for start, end in gone):
            raise LocalProtocolError(f"there is no entry at byte {at} of a segment to change")


def _fate_of(damage: Damage, healed: Collection[Damage]) -> _Fate:
    is_filler = damage in healed and damage.end_offset - damage.offset >= HEAD_BYTES
    return _Fate.GONE if is_filler else _Fate.BLANK


class _Stretch:
    """Neighbouring bytes that have the same fate."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._fate = _Fate.KEPT
        self.start = self.end = HEADER_BYTES

    def add(self, end: int, fate: _Fate) -> Iterator[Piece]:
        """Go on up to ``end``; yield what ends there."""
        is_too_long = fate is _Fate.GONE and end - self.start > MAX_FILLER_BYTES
        if fate is not self._fate or is_too_long:
            yield from self.close()
        self._fate, self.end = fate, end

    def close(self) -> Iterator[Piece]:
        """End here; yield what there was."""
        size = self.end - self.start
        if size and self._fate is _Fate.KEPT:
            yield Kept(self.start, self.end)
        elif size and self._fate is _Fate.GONE:
            yield Written(self.start, encode_filler(self._salt, size))
        self.start = self.end


def _shortened(entry: Scanned, body: bytes, salt: bytes) -> Written:
    room = entry.end_offset - entry.offset - HEAD_BYTES
    spare = room - len(body)
    if spare < 0:
        raise LocalProtocolError(f"{len(body)} bytes do not fit into an entry of {room}")
    if 0 < spare < HEAD_BYTES:  # no room for a filler's head
        return Written(entry.offset, encode_padded(salt, entry.kind, body, spare))
    return Written(entry.offset, encode_entry(salt, entry.kind, body))
