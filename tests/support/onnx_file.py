"""The float32 weights of an ONNX file, by name: just enough of protobuf's wire format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

GRAPH, INITIALIZER = 7, 5
DIMS, DATA_TYPE, NAME, RAW_DATA, FLOAT = 1, 2, 8, 9, 1


def weights_of(content: bytes) -> dict[str, NDArray[np.float32]]:
    graph = next(value for field, value in _fields(content) if field == GRAPH)
    assert isinstance(graph, bytes)
    found: dict[str, NDArray[np.float32]] = {}
    for field, tensor in _fields(graph):
        if field != INITIALIZER or not isinstance(tensor, bytes):
            continue
        parts = list(_fields(tensor))
        told = dict(parts)
        raw, name = told.get(RAW_DATA), told.get(NAME)
        if told.get(DATA_TYPE) == FLOAT and isinstance(raw, bytes) and isinstance(name, bytes):
            shape = [value for field, value in parts if field == DIMS and isinstance(value, int)]
            found[name.decode()] = np.frombuffer(raw, "<f4").reshape(shape)
    return found


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(content):
        key = number()
        size = {5: 4, 1: 8}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, number()
            continue
        size = number() if size is None else size
        yield key >> 3, content[place : place + size]
        place += size
