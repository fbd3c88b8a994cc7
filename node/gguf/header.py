"""What stands at the beginning of a GGUF file: metadata, and where each tensor lies.

The file may be anybody's. Every count and length is compared with the bytes that are there before
anything of that size is built, and a tensor's place with the size of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from node.manifest import ModelError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)  # version 1 had shorter lengths, and is of no model that is still in use
MAX_HEADER_BYTES: Final = 64 << 20  # a vocabulary of 256,000 tokens and its merges take 15 MB
MAX_KEYS: Final = 1_024  # real files have 20 to 60
MAX_TENSORS: Final = 8_192  # the largest models have about 1,200
MAX_NAME_BYTES: Final = 256
MAX_DIMENSIONS: Final = 4
MAX_ELEMENTS: Final = 1 << 40
MAX_ALIGNMENT: Final = 1 << 16
DEFAULT_ALIGNMENT: Final = 32

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a tensor's numbers are stored: so many in a block of so many bytes."""

    name: str
    numbers: int
    size_bytes: int


ENCODINGS: Final = {
    0: Encoding("F32", 1, 4),
    1: Encoding("F16", 1, 2),
    2: Encoding("Q4_0", 32, 18),
    3: Encoding("Q4_1", 32, 20),
    8: Encoding("Q8_0", 32, 34),
    30: Encoding("BF16", 1, 2),
}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: its shape, outermost dimension first, and where its bytes are in the file."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A file's metadata, and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorPlace]


def parse_header(content: bytes, file_bytes: int) -> Header:
    """Return the header at the beginning of ``content``, which is the whole file or its first
    ``MAX_HEADER_BYTES``.

    Raises ``ModelError`` with code ``model-gguf`` unless all tensors lie within ``file_bytes``,
    each on bytes of its own: what they become is at most four times as large as the file.
    """
    reader = _Reader(content)
    if reader.take(len(MAGIC)) != MAGIC:
        raise malformed("it does not begin as one")
    version = reader.scalar(4)
    if version not in VERSIONS:
        raise malformed(f"version {version} is not one of {VERSIONS}")
    tensor_count = reader.count(MAX_TENSORS, "tensors")
    metadata = _metadata(reader, reader.count(MAX_KEYS, "keys"))
    described = [_describe(reader) for _ in range(tensor_count)]
    start = _aligned(reader.at, _alignment(metadata))
    tensors: dict[str, TensorPlace] = {}
    for name, shape, encoding, offset in described:
        size_bytes = math.prod(shape) // encoding.numbers * encoding.size_bytes
        if name in tensors:
            raise malformed(f"it has two tensors {name!r}")
        if start + offset + size_bytes > file_bytes:
            raise malformed(f"tensor {name!r} lies outside of the file: is it cut off?")
        tensors[name] = TensorPlace(name, shape, encoding, start + offset, size_bytes)
    _check_apart(tensors.values())
    return Header(metadata, tensors)


def _check_apart(places: Iterable[TensorPlace]) -> None:
    end, before = 0, ""
    for place in sorted(places, key=lambda each: each.start):
        if place.start < end:
            raise malformed(f"tensors {before!r} and {place.name!r} share bytes")
        end, before = place.start + place.size_bytes, place.name


def malformed(why: str) -> ModelError:
    """Return the error for a file that is not what it should be."""
    return ModelError(
        f"the file is no GGUF model that can be read: {why}",
        code="model-gguf",
        hint="get it anew, or give a folder with safetensors",
    )


class _Reader:
    """Takes values off the front of bytes; raises ``ModelError`` where there are too few."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self.at = 0

    def take(self, size: int) -> bytes:
        return bytes(self._view(size))

    def scalar(self, kind: int) -> Any:
        form = _SCALARS.get(kind)
        if form is None:
            raise malformed(f"it holds a value of the unknown type {kind}")
        return form.unpack(self._view(form.size))[0]

    def count(self, limit: int, what: str) -> int:
        number = self.scalar(10)
        if number > limit:
            raise malformed(f"it claims {number} {what}, over the limit of {limit}")
        return number

    def text(self, limit: int | None = None) -> str:
        size = self.scalar(10)
        if limit is not None and size > limit:
            raise malformed(f"it holds a name of {size} bytes, over the limit of {limit}")
        try:
            return str(self._view(size), "utf-8")
        except UnicodeDecodeError as error:
            raise malformed("it holds text that is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        return self._array() if kind == _ARRAY else self.scalar(kind)

    def _array(self) -> list[Any]:
        kind, count = self.scalar(4), self.scalar(10)
        if kind == _STRING:
            self._check_room(count * 8)  # the length of each
            return [self.text() for _ in range(count)]
        form = _SCALARS.get(kind)
        if form is None:
            raise malformed(f"it holds an array of type {kind}")
        return [number for (number,) in form.iter_unpack(self._view(count * form.size))]

    def _view(self, size: int) -> memoryview:
        self._check_room(size)
        self.at += size
        return self._content[self.at - size : self.at]

    def _check_room(self, size: int) -> None:
        if size > len(self._content) - self.at:
            raise malformed("it ends, or passes the limit of a header, in the middle of its header")


def _metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text(MAX_NAME_BYTES)
        if key in metadata:
            raise malformed(f"it has two values for {key!r}")
        metadata[key] = reader.value(reader.scalar(4))
    return metadata


def _describe(reader: _Reader) -> tuple[str, tuple[int, ...], Encoding, int]:
    name = reader.text(MAX_NAME_BYTES)
    dimensions = reader.scalar(4)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise malformed(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.scalar(10) for _ in range(dimensions))[::-1]
    encoding = ENCODINGS.get(kind := reader.scalar(4))
    if encoding is None:
        known = ", ".join(each.name for each in ENCODINGS.values())
        raise ModelError(
            f"tensor {name!r} is stored as type {kind}, which is not one of {known}",
            code="model-weights",
            hint="get the model in one of these, for example as Q8_0",
        )
    if not all(shape) or math.prod(shape) > MAX_ELEMENTS or shape[-1] % encoding.numbers:
        raise malformed(f"tensor {name!r} has the impossible shape {shape}")
    return name, shape, encoding, reader.scalar(10)


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT:
        raise malformed(f"its alignment {alignment!r} cannot be")
    return alignment


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
