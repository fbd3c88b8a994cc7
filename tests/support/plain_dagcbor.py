"""A second reader of DAG-CBOR, written from the specification alone, to hold the real one against.

It reads a byte at a time, stops at the first fault, and is slow; it shares nothing with
``protocols.dagcbor`` but the limits and the types for links.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from protocols.cid import CID, AnyCID
from protocols.limits import MAX_CBOR_CONTAINERS, MAX_CBOR_DEPTH, MAX_CBOR_ITEMS, MAX_RECORD_BYTES

SIMPLE = {20: False, 21: True, 22: None}
FLOAT = 27
UNSIGNED, NEGATIVE, BYTES, TEXT, LIST, MAP, TAG = range(7)


class FaultError(Exception):
    """The input is not what the specification or the profile allows."""


def read(data: bytes, *, is_record: bool) -> Any:
    """Return the value of one block; raises ``FaultError``."""
    reader = _Reader(data, is_record)
    reader.require(len(data) <= MAX_RECORD_BYTES, "too many bytes")
    value = reader.item(depth=0)
    reader.require(reader.at == len(data), "bytes after the value")
    return value


class _Reader:
    def __init__(self, data: bytes, is_record: bool) -> None:
        self.data = data
        self.is_record = is_record
        self.at = 0
        self.items = -1
        self.containers = 0

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise FaultError(f"{what} at byte {self.at}")

    def take(self, size: int) -> bytes:
        self.require(self.at + size <= len(self.data), "the end")
        self.at += size
        return self.data[self.at - size : self.at]

    def head(self) -> tuple[int, int, int]:
        """Return the major type, what its head says about the argument, and the argument."""
        first = self.take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short, short
        self.require(short < 28, "an indefinite or reserved head")
        argument = int.from_bytes(self.take(1 << (short - 24)), "big")
        if major < 7:
            least = (24, 1 << 8, 1 << 16, 1 << 32)[short - 24]
            self.require(argument >= least, "an argument that is not minimal")
        return major, short, argument

    def item(self, depth: int) -> Any:
        self.items += 1
        self.require(self.items <= MAX_CBOR_ITEMS, "too many items")
        major, short, argument = self.head()
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self.take(argument)
            case 3:
                return self.text(argument)
            case 4 | 5:
                self.open()
                self.require(depth < MAX_CBOR_DEPTH, "too deep")
                read = self.list if major == LIST else self.map
                return read(argument, depth + 1)
            case 6:
                self.open()
                self.require(short == 24 and argument == 42, "a tag")
                return self.link()
            case _:
                return self.simple(short)

    def open(self) -> None:
        self.containers += 1
        self.require(self.containers <= MAX_CBOR_CONTAINERS, "too many containers")

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FaultError(str(error)) from error

    def list(self, count: int, depth: int) -> list[Any]:
        values = list[Any]()
        while len(values) < count:
            values.append(self.item(depth))
        return values

    def map(self, count: int, depth: int) -> dict[str, Any]:
        entries = dict[str, Any]()
        previous = b""
        for _ in range(count):
            start = self.at
            key = self.item(depth)
            self.require(type(key) is str, "a key that is no text")
            encoded = self.data[start : self.at]
            self.require(previous < encoded, "a key out of order")
            previous = encoded
            entries[key] = self.item(depth)
        return entries

    def link(self) -> AnyCID:
        major, _, size = self.head()
        self.require(major == BYTES, "a link that is not bytes")
        raw = self.take(size)
        self.require(raw[:1] == b"\0", "a link without its zero")
        return self.cid(raw[1:])

    def cid(self, raw: bytes) -> AnyCID:
        is_ours = len(raw) == 36 and raw[0] == 1 and raw[1] in (0x55, 0x71)
        if is_ours and raw[2:4] == b"\x12\x20":
            return CID(raw)
        self.require(not self.is_record, "a foreign CID")
        if raw[:2] == b"\x12\x20":
            self.require(len(raw) == 34, "a version 0 CID of another size")
            return AnyCID(raw)
        version, rest = self.varint(raw)
        _, rest = self.varint(rest)
        _, rest = self.varint(rest)
        size, rest = self.varint(rest)
        self.require(version == 1 and size == len(rest), "a malformed CID")
        return AnyCID(raw)

    def varint(self, raw: bytes) -> tuple[int, bytes]:
        size = next((n for n, byte in enumerate(raw[:9], 1) if byte < 0x80), 0)
        self.require(size > 0, "a number without an end")
        self.require(size == 1 or raw[size - 1] != 0, "a number that is not minimal")
        number = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(raw[:size]))
        return number, raw[size:]

    def simple(self, short: int) -> Any:
        if short in SIMPLE:
            return SIMPLE[short]
        self.require(short == FLOAT, "a simple value or a short float")
        (value,) = struct.unpack(">d", self.data[self.at - 8 : self.at])
        self.require(math.isfinite(value), "no number")
        is_minus_zero = value == 0 and math.copysign(1, value) < 0
        self.require(not (self.is_record and is_minus_zero), "minus zero")
        return value
