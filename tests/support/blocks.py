"""Blocks for the codec to read: right ones, damaged ones, and ones made to hurt it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

from protocols.limits import MAX_CBOR_CONTAINERS, MAX_CBOR_DEPTH, MAX_CBOR_ITEMS, MAX_RECORD_BYTES
from tests.support.feeds import key, record

FIXTURES = Path(__file__).parents[1] / "data" / "ipld-codec-fixtures" / "fixtures"
UNSIGNED, NEGATIVE, BYTES, TEXT, LIST, MAP, TAG, SIMPLE = range(8)
EDGES = (0, 1, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1)
FLOATS = (0.0, -0.0, 1.5, 1e-323, 1.7e308, float("nan"), float("inf"), float("-inf"))
TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 41, 43, 256, 258, 55799)
CIDS = (
    b"\x01\x71\x12\x20" + bytes(32),
    b"\x01\x55\x12\x20" + bytes(range(32)),
    b"\x12\x20" + bytes(32),
    b"\x01\x70\x12\x20" + bytes(32),
    b"\x01\x55\x00\x00",
    b"\x01\xa9\x02\x13\x40" + bytes(64),
    b"\x01\x55\x00\x80\x01" + bytes(128),
)


def head(major: int, argument: int, width: int | None = None) -> bytes:
    """Return a minimal head, or one whose argument takes 1, 2, 4 or 8 bytes."""
    if width is None and argument < 24:
        return bytes((major << 5 | argument,))
    if width is None:
        width = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    short = {1: 24, 2: 25, 4: 26, 8: 27}[width]
    return bytes((major << 5 | short,)) + argument.to_bytes(width, "big")


class Blocks:
    """A source of inputs, each a function of the generator that it is made with."""

    def __init__(self) -> None:
        self.right = [path.read_bytes() for path in sorted(FIXTURES.glob("*/*.dag-cbor"))]
        self.right += [record(key(1)).encode()] * 40

    def any(self, rng: random.Random) -> bytes:
        """Return an input of any sort; most are small."""
        make = rng.choices(
            (self._noise, self._damaged, self._structured, self.flood), (1, 4, 5, 0.1)
        )[0]
        return make(rng)

    def _noise(self, rng: random.Random) -> bytes:
        return rng.randbytes(rng.choice((1, 2, 9, 40, 300)))

    def _damaged(self, rng: random.Random) -> bytes:
        data = bytearray(rng.choice(self.right))
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            self._damage(rng, data)
        return bytes(data)

    def _damage(self, rng: random.Random, data: bytearray) -> None:
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 9, 41)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice((0x18, 0x1B, 0x40, 0x58, 0x7F, 0x9F, 0xD8, 0xF7, 0xFB, 0xFF))
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:at] = self._item(rng, 3)
            case _:
                other = rng.choice(self.right)
                start = rng.randrange(len(other))
                data[at:end] = other[start : start + rng.choice((1, 9, 41, 200))]

    def _structured(self, rng: random.Random) -> bytes:
        """Return a value written item by item, in half of the cases with faults on the way."""
        writer = _Writer(rng, faults=rng.choice((0, 0, 0.02, 0.1)))
        data = writer.item(rng.choice((1, 2, 3, 5)))
        if rng.random() < 0.1:
            depth = rng.choice((1, 10, MAX_CBOR_DEPTH - 2, MAX_CBOR_DEPTH, MAX_CBOR_DEPTH + 1, 999))
            data = (b"\x81" * depth) + data
        return data

    def _item(self, rng: random.Random, depth: int) -> bytes:
        return _Writer(rng, faults=rng.choice((0, 0, 0.02))).item(depth)

    def flood(self, rng: random.Random) -> bytes:
        """Return as much as one block holds, and sometimes more, of one small thing."""
        items = rng.choice((1, 1, 2, 10))
        unit = b"".join(self._item(rng, rng.choice((0, 1, 2))) for _ in range(items))
        limits = (MAX_CBOR_ITEMS, MAX_CBOR_CONTAINERS, MAX_RECORD_BYTES // max(1, len(unit)))
        times = max(0, rng.choice(limits) + rng.choice((-2, -1, 0, 1)))
        if len(unit) * times > MAX_RECORD_BYTES + 100:
            times = MAX_RECORD_BYTES // len(unit) - 1
        return head(LIST, times * items) + unit * times


class _Writer:
    """Writes items, with a chance of ``faults`` at each."""

    def __init__(self, rng: random.Random, faults: float) -> None:
        self.rng = rng
        self.faults = faults

    def errs(self) -> bool:
        return self.faults > 0 and self.rng.random() < self.faults

    def item(self, depth: int) -> bytes:
        if self.errs():
            return self.odd()
        makes: list[Callable[[int], bytes]] = [self.leaf, self.leaf, self.link]
        if depth > 0:
            makes += [self.list, self.map, self.map]
        return self.rng.choice(makes)(depth)

    def head(self, major: int, argument: int) -> bytes:
        if self.errs():
            if self.rng.random() < 0.5:
                argument = max(0, min((1 << 64) - 1, argument + self.rng.choice((-1, 1, 1 << 40))))
            widths = [width for width in (1, 2, 4, 8) if argument < 1 << 8 * width]
            return head(major, argument, self.rng.choice(widths))
        return head(major, argument)

    def leaf(self, _: int) -> bytes:
        match self.rng.randrange(5):
            case 0:
                return self.head(self.rng.choice((UNSIGNED, NEGATIVE)), self.rng.choice(EDGES))
            case 1:
                return self.string(BYTES, self.rng.randbytes(self.size()))
            case 2:
                return self.text()
            case 3:
                return b"\xfb" + struct.pack(">d", self.number())
            case _:
                return self.rng.choice((b"\xf4", b"\xf5", b"\xf6"))

    def number(self) -> float:
        if self.faults:
            return self.rng.choice(FLOATS)
        return self.rng.choice((0.0, 1.5, self.rng.random(), 1e-323))

    def size(self) -> int:
        return self.rng.choice((0, 1, 5, 23, 24, 37, 255, 256))

    def text(self) -> bytes:
        chars = self.rng.choices("ab\0é水𐅑", k=self.rng.choice((0, 1, 2, 7, 23, 24)))
        encoded = "".join(chars).encode()
        return self.string(TEXT, encoded[:-1] if self.errs() else encoded)

    def string(self, major: int, content: bytes) -> bytes:
        return self.head(major, len(content)) + content

    def link(self, _: int) -> bytes:
        cid = self.rng.choice(CIDS[:2] if self.rng.random() < 0.7 else CIDS)
        raw = b"\0" + cid
        if self.errs():
            raw = self.rng.choice((cid, raw + b"\0", raw[:-1], b"\x01" + cid, b"\0", b""))
        tag = self.rng.choice(TAGS) if self.errs() else 42
        return self.head(TAG, tag) + self.string(TEXT if self.errs() else BYTES, raw)

    def list(self, depth: int) -> bytes:
        count = self.rng.choice((0, 1, 2, 3, 24))
        return self.head(LIST, count) + b"".join(self.item(depth - 2) for _ in range(count))

    def map(self, depth: int) -> bytes:
        keys = {self.text() for _ in range(self.rng.choice((0, 1, 2, 3, 24)))}
        ordered = sorted(keys)  # as they are written, which is length first
        if ordered and self.errs():
            ordered = self.rng.choice(
                (ordered[::-1], [*ordered, ordered[-1]], [*ordered, self.item(1)])
            )
        return self.head(MAP, len(ordered)) + b"".join(
            each + self.item(depth - 2) for each in ordered
        )

    def odd(self) -> bytes:
        rng = self.rng
        match rng.randrange(6):
            case 0:
                return head(rng.choice((BYTES, TEXT, LIST, MAP)), rng.choice(EDGES))
            case 1:
                return bytes((rng.choice((BYTES, TEXT, LIST, MAP)) << 5 | 31,))
            case 2:
                return head(TAG, rng.choice(TAGS)) + self.item(1)
            case 3:
                return bytes((0xE0 | rng.randrange(32),)) + rng.randbytes(rng.choice((0, 1, 2, 4)))
            case 4:
                return b"\xf9" + rng.randbytes(2)
            case _:
                return b"\xfa" + rng.randbytes(4)
