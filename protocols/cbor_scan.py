"""Bounds the number of items in a block without building anything, whatever their structure.

cbor2's decoder spends 73 bytes of memory a byte of input, so what is too much must be refused
before it. The scan bounds and nothing more: what it lets pass is still decoded, re-encoded and
compared.
"""

from __future__ import annotations

import re
from typing import Final

CID_HEAD: Final = b"\xd8\x2a\x58\x25\x00"
"""What stands before the bytes of a ``CID``: tag 42, and a byte string with a zero in front."""

_LINK_HEAD: Final = CID_HEAD[:2]
_LONG_FROM: Final = 24  # lengths below are part of the head
_RUN_STRING_BYTES: Final = 64  # of strings that a run steps over: longer ones are few in a block
_LENGTH_WIDTHS: Final = {
    major + _LONG_FROM + power: 1 << power for major in (0x40, 0x60) for power in range(4)
}
_LINK_LENGTH_HEADS: Final = tuple(
    _LINK_HEAD + bytes((head,)) for head in _LENGTH_WIDTHS if head < 0x60
)


def _run_item() -> bytes:
    """Return the pattern of an item that a run steps over: a number, a string of up to 64 bytes, a
    link of as many, or the head of a list or map.
    """
    short, long = range(1, _LONG_FROM), range(_LONG_FROM, _RUN_STRING_BYTES + 1)
    long_rest = b"|".join(re.escape(b"%c" % size) + b".{%d}" % size for size in long)
    forms = [
        rb"[\x00-\x17\x20-\x37\x40\x60\x80-\x97\xa0-\xb7\xf4-\xf6]",
        rb"[\x18\x38\x98\xb8].",
        rb"[\x19\x39\x99\xb9].{2}",
        rb"[\x1a\x3a\x9a\xba].{4}",
        rb"[\x1b\x3b\x9b\xbb\xfb].{8}",
        re.escape(CID_HEAD) + rb".{36}",
        b"[\x58\x78](?:%b)" % long_rest,
        *(b"[%c%c].{%d}" % (0x40 + size, 0x60 + size, size) for size in short),
    ]
    link_forms = [*(b"%c.{%d}" % (0x40 + size, size) for size in short), b"\x58(?:%b)" % long_rest]
    forms.append(re.escape(_LINK_HEAD) + b"(?:" + b"|".join(link_forms) + b")")
    return b"(?s:" + b"|".join(forms) + b")"


# Possessive: an item has one form alone, so there is nothing to go back for. A full run is
# counted by one match, so that the input cheapest to write is also the cheapest to refuse.
_RUN: Final = 256
_FULL_RUN: Final = re.compile(b"%b{%d}+" % (_run_item(), _RUN))
_SHORT_RUN: Final = re.compile(b"%b{1,%d}+" % (_run_item(), _RUN))
_RUN_ITEM: Final = re.compile(_run_item())


def has_more_items(data: bytes, limit: int) -> bool:
    """Say whether ``data`` holds more than ``limit`` items below its outermost value.

    Raises ``ValueError`` for a head that no DAG-CBOR has.
    """
    position, items = 0, _RUN
    left = limit + 1  # the outermost value is not an item of anything
    while left >= 0 and position < len(data):
        width = _LENGTH_WIDTHS.get(data[position], 1)
        if width > 1:
            items, position = 1, _after_string(data, position, width)
        else:
            items, position = _run(data, position, is_full=items == _RUN)
        left -= items
    return left < 0


def _run(data: bytes, position: int, *, is_full: bool) -> tuple[int, int]:
    """Return how many items a run steps over, and where they end; ``is_full`` is a guess whether
    there are as many as one match takes. A longer string or link is a run of its own.
    """
    if is_full and (run := _FULL_RUN.match(data, position)):
        return _RUN, run.end()
    if run := _SHORT_RUN.match(data, position):
        return len(_RUN_ITEM.findall(data, position, run.end())), run.end()
    at = position
    if data.startswith(_LINK_LENGTH_HEADS, position):
        at += len(_LINK_HEAD)
    if data[at] in _LENGTH_WIDTHS:
        return 1, _after_string(data, at, _LENGTH_WIDTHS[data[at]])
    raise ValueError(f"head {data[position]:#x} at byte {position} is not allowed there")


def _after_string(data: bytes, position: int, width: int) -> int:
    """Return where the string whose length has ``width`` bytes ends.

    Lengths that would fit into the head are refused here: 20,000 of them would be cheap to write
    and dear to step over.
    """
    start = position + 1 + width
    size = int.from_bytes(data[position + 1 : start], "big")
    if size < _LONG_FROM:
        raise ValueError(f"the length at byte {position} is not minimal")
    return start + size
