"""The numbers of a GGUF tensor: blocks of small integers with a scale, taken apart.

Quantised numbers become float16, of which 11 bits are left where 4 or 8 came in; float16, bfloat16
and float32 stay what they are. The same bytes give the same numbers on every machine: each is one
product and one sum, rounded as IEEE 754 says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.generic]

_Q4_0: Final = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
_Q4_1: Final = np.dtype([("scale", "<f2"), ("least", "<f2"), ("pairs", "u1", 16)])
_Q8_0: Final = np.dtype([("scale", "<f2"), ("codes", "i1", 32)])
_MIDDLE: Final = 8  # of Q4_0's codes: it stands for zero


def numbers_of(encoding: str, content: bytes, shape: tuple[int, ...]) -> Numbers:
    """Return a tensor's numbers; bfloat16 as its 16-bit patterns, which NumPy has no type for."""
    return _DECODERS[encoding](content).reshape(shape)


def _q4_0(content: bytes) -> Numbers:
    blocks = np.frombuffer(content, _Q4_0)
    return _half((_nibbles(blocks["pairs"]) - _MIDDLE) * _column(blocks["scale"]))


def _q4_1(content: bytes) -> Numbers:
    blocks = np.frombuffer(content, _Q4_1)
    scaled = _nibbles(blocks["pairs"]) * _column(blocks["scale"])
    return _half(scaled + _column(blocks["least"]))


def _q8_0(content: bytes) -> Numbers:
    blocks = np.frombuffer(content, _Q8_0)
    return _half(blocks["codes"].astype(np.float32) * _column(blocks["scale"]))


def _nibbles(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 32 codes a block: the low halves of 16 bytes, then the high ones."""
    return np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32)


def _column(values: NDArray[np.float16]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None]


def _half(values: NDArray[np.float32]) -> Numbers:
    with np.errstate(over="ignore"):  # infinity is found when the model computes with it
        return values.astype("<f2")


def _plain(dtype: str) -> Callable[[bytes], Numbers]:
    return lambda content: np.frombuffer(content, dtype)


_DECODERS: Final[dict[str, Callable[[bytes], Numbers]]] = {
    "F32": _plain("<f4"),
    "F16": _plain("<f2"),
    "BF16": _plain("<u2"),
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
}
