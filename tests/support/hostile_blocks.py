"""Blocks of up to 64 KiB that are made to cost a decoder time or memory, each under a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocols.limits import MAX_CBOR_CONTAINERS, MAX_CBOR_DEPTH, MAX_CBOR_ITEMS, MAX_RECORD_BYTES
from tests.support.blocks import BYTES, LIST, MAP, TEXT, head

TAG: Final = b"\xd8\x2a"
LINK: Final = TAG + b"\x58\x25\x00\x01\x71\x12\x20" + bytes(32)
FLOAT: Final = b"\xfb\x3f\xf8" + bytes(6)
WIDE: Final = b"\x62\xc3\xa9"  # a text whose length in UTF-8 is not its number of characters


def flood(unit: bytes, times: int = MAX_RECORD_BYTES, items: int = 1) -> bytes:
    """Return a list of ``unit``, which is so many items, as often as a block's size allows."""
    times = min(times, (MAX_RECORD_BYTES - 5) // len(unit))
    return head(LIST, times * items) + unit * times


def _map(keys: list[bytes]) -> bytes:
    return head(MAP, len(keys)) + b"".join(head(TEXT, len(key)) + key + b"\0" for key in keys)


def _numbered(count: int) -> list[bytes]:
    return [b"%05x" % number for number in range(count)]


MOST: Final = MAX_CBOR_CONTAINERS - 1
"""As many as fit into one list, if they are lists, maps or links."""

CASES: Final[dict[str, Callable[[], bytes]]] = {
    "lists, 65,535 deep": lambda: b"\x81" * 65_535 + b"\0",
    "maps, 21,845 deep": lambda: b"\xa1\x60" * 21_845 + b"\0",
    "tags, 65,535 deep": lambda: b"\xc1" * 65_535 + b"\0",
    "links within links": lambda: TAG * 32_767 + b"\0",
    "lists of open end, 65,535 deep": lambda: b"\x9f" * 65_535,
    "lists, as deep as allowed, many": lambda: flood(b"\x81" * (MAX_CBOR_DEPTH - 1) + b"\0", 75),
    "bytes, 2^64-1 declared": lambda: b"\x5b" + b"\xff" * 8,
    "text, 2^40 declared": lambda: b"\x7b" + (1 << 40).to_bytes(8, "big"),
    "list, 2^64-1 declared": lambda: b"\x9b" + b"\xff" * 8,
    "list, 2^32-1 declared": lambda: b"\x9a" + b"\xff" * 4 + b"\0" * 65_000,
    "map, 2^32-1 declared": lambda: b"\xba" + b"\xff" * 4 + b"\0" * 65_000,
    "lists within lists, 65,535 declared in each": lambda: b"\x99\xff\xff" * 21_000,
    "items, the most": lambda: flood(b"\0", MAX_CBOR_ITEMS),
    "items, one too many": lambda: flood(b"\0", MAX_CBOR_ITEMS + 1),
    "items, 65,530": lambda: flood(b"\0"),
    "empty lists, the most": lambda: flood(b"\x80", MOST),
    "empty lists, 20,000": lambda: flood(b"\x80", MAX_CBOR_ITEMS),
    "empty maps, the most": lambda: flood(b"\xa0", MOST),
    "empty maps, 20,000": lambda: flood(b"\xa0", MAX_CBOR_ITEMS),
    "maps of one, 10,000": lambda: flood(b"\xa1\x60\0", MAX_CBOR_ITEMS // 3),
    "maps of two, the most": lambda: flood(b"\xa2" + WIDE + b"\0\x62\xc3\xaa\0", MOST),
    "maps of three with floats": lambda: flood(
        b"\xa3\x60" + FLOAT + b"\x61a\0" + WIDE + b"\0", MOST
    ),
    "lists of floats": lambda: flood(b"\x82" + FLOAT * 2, MOST),
    "one map of 9,000 keys": lambda: _map(_numbered(9_000)),
    "one map of 9,000 keys, backwards": lambda: _map(_numbered(9_000)[::-1]),
    "one map of 9,000 keys that are one": lambda: _map([b"same!"] * 9_000),
    "a key of 60 KiB": lambda: _map([b"k" * 60_000]),
    "keys of 250 bytes that differ at the end": lambda: _map(
        [b"k" * 245 + key for key in _numbered(255)]
    ),
    "integer keys that collide": lambda: (
        head(MAP, 6_000)
        + b"".join(head(0, n * ((1 << 61) - 1) % (1 << 64), 8) + b"\0" for n in range(6_000))
    ),
    "numbers that are not minimal": lambda: flood(b"\x1b" + bytes(8)),
    "lengths that are not minimal": lambda: flood(b"\x58\0"),
    "lengths of links that are not minimal": lambda: flood(TAG + b"\x58\0"),
    "largest numbers": lambda: flood(b"\x1b" + b"\xff" * 8),
    "smallest numbers": lambda: flood(b"\x3b" + b"\xff" * 8),
    "floats": lambda: flood(FLOAT),
    "zeros as floats": lambda: flood(b"\xfb" + bytes(8)),
    "NaN at the end": lambda: flood(FLOAT, 7_000)[:-9] + b"\xfb\x7f\xf8" + bytes(6),
    "infinity": lambda: b"\xfb\x7f\xf0" + bytes(6),
    "half floats": lambda: flood(b"\xf9\x3e\0", MAX_CBOR_ITEMS),
    "text that is not UTF-8 at its end": lambda: head(TEXT, 65_000) + b"a" * 64_999 + b"\xff",
    "texts of one character": lambda: flood(b"\x61a", MAX_CBOR_ITEMS),
    "texts of 24 bytes": lambda: flood(b"\x78\x18" + b"a" * 24),
    "texts of 24 bytes among numbers": lambda: flood(b"\x78\x18" + b"a" * 24 + b"\0" * 9, items=10),
    "foreign links and texts in turn": lambda: flood(
        TAG + b"\x58\x18\0\x01\x55\0\x13" + bytes(19) + b"\x61a", MOST, items=2
    ),
    "bytes after the value": lambda: b"\0" + b"\0" * 65_000,
    "links, the most": lambda: flood(LINK),
    "links with roles": lambda: flood(b"\x82" + LINK + b"\x61a", MOST // 2),
    "short foreign links, the most": lambda: flood(TAG + b"\x45\0\x01\x55\0\0", MOST),
    "short foreign links, 8,191": lambda: flood(TAG + b"\x45\0\x01\x55\0\0"),
    "foreign links of 26 bytes": lambda: flood(TAG + b"\x58\x1a\0\x01\x55\0\x15" + bytes(21), MOST),
    "links of version 0": lambda: flood(TAG + b"\x58\x23\0\x12\x20" + bytes(32)),
    "a link whose digest is 2^63 bytes": lambda: (
        TAG + head(BYTES, 13) + b"\0\x01\x55\0" + b"\xff" * 8 + b"\x7f"
    ),
    "a link whose codec does not end": lambda: (
        TAG + head(BYTES, 60_000) + b"\0\x01" + b"\xff" * 59_998
    ),
    "a bignum of 64 KiB": lambda: b"\xc2" + head(BYTES, 65_000) + b"\xff" * 65_000,
    "a decimal with a huge exponent": lambda: bytes.fromhex("c4821b000000003b9aca0001"),
    "a bigfloat with a huge exponent": lambda: bytes.fromhex("c5821b000000003b9aca0001"),
    "a pattern": lambda: b"\xd8\x23" + head(TEXT, 20_000) + b"(" * 20_000,
    "a value that is within itself": lambda: bytes.fromhex("d81c81d81d00"),
    "one text, referred to 20,000 times": lambda: (
        b"\xd9\x01\0\x99\x4e\x20" + head(TEXT, 1_000) + b"A" * 1_000 + b"\xd8\x19\0" * 19_999
    ),
}
