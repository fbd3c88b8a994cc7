"""Multiplication by a matrix of weights, in each precision that a language model is offered in.

Decoding reads every weight for every token, so what it costs is how many bytes they have. ``int8``
and ``int4`` keep the weights as small integers with scales (a row's in ``int8``, every 32 numbers'
in ``int4``) and multiply in bfloat16 by kernels of torch that have private names: where they are
missing, or on another device than the CPU, the same weights are multiplied as ordinary bfloat16,
slower and with the same meaning.

The kernels compute each row by itself, so that a row's result does not depend on how many others
there are, bit for bit. Ordinary multiplication makes no such promise.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from node.manifest import ModelError

GROUP: Final = 32  # of the numbers that share a scale: what GGUF's blocks have, so nothing is lost
TILE: Final = 16  # rows that the int4 kernel takes at once
_INNER_TILES: Final = 2  # ignored by the kernel for CPUs, and has to be one of 2, 4 and 8
_LEVELS: Final = 15
_SMALLEST: Final = 1e-6  # a group of equal numbers has no range to divide by


class Linear(Protocol):
    """A matrix ``[out, in]``: rows of ``in`` numbers become rows of ``out`` numbers."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the products, one row each."""
        ...


class PlainLinear:
    """Weights as they are, in one type."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the products, one row each."""
        return F.linear(rows.to(self._weight.dtype), self._weight)


class Int8Linear:
    """Weights of eight bits with a scale a row."""

    def __init__(self, weight: Tensor) -> None:
        codes, scales = quantise_int8(weight)
        self._codes = codes
        self._scales = scales.to(torch.bfloat16)
        self._multiply = torch.ops.aten._weight_int8pack_mm

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the products, one row each."""
        return self._multiply(rows.to(torch.bfloat16), self._codes, self._scales)


class Int4Linear:
    """Weights of four bits with a scale and a zero every ``GROUP`` numbers."""

    def __init__(self, weight: Tensor) -> None:
        codes, scales, zeros = quantise_int4(weight)
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self._packed = pack(codes, _INNER_TILES)
        pairs = torch.stack([scales, zeros], dim=2).transpose(0, 1)
        self._scales_and_zeros = pairs.contiguous().to(torch.bfloat16)
        self._multiply = torch.ops.aten._weight_int4pack_mm_for_cpu

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the products, one row each."""
        return self._multiply(rows.to(torch.bfloat16), self._packed, GROUP, self._scales_and_zeros)


def has_kernels(device: torch.device) -> bool:
    """Whether this torch has the kernels for small integers on ``device``."""
    names = (
        "_weight_int8pack_mm",
        "_convert_weight_to_int4pack_for_cpu",
        "_weight_int4pack_mm_for_cpu",
    )
    return device.type == "cpu" and all(hasattr(torch.ops.aten, name) for name in names)


def make_linear(weight: Tensor, precision: str, *, by_kernel: bool) -> Linear:
    """Return a matrix in one of the precisions ``fp32``, ``bf16``, ``int8`` and ``int4``.

    Raises ``ModelError`` where the matrix cannot be cut as ``int4`` needs it.
    """
    if precision == "int4" and (weight.shape[1] % GROUP or weight.shape[0] % TILE):
        raise ModelError(
            f"a matrix of {tuple(weight.shape)} cannot be divided into {TILE} rows by {GROUP}",
            code="precision-unavailable",
            hint="--precision int8 takes any size",
        )
    if by_kernel:
        return Int8Linear(weight) if precision == "int8" else Int4Linear(weight)
    rounded = {"int8": rounded_int8, "int4": rounded_int4}.get(precision, torch.Tensor.float)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return PlainLinear(rounded(weight), dtype)


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes from -127 to 127, and a scale a row."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=_SMALLEST)
    codes = (weight / scales).round().clamp(-127, 127).to(torch.int8)
    return codes.contiguous(), scales.squeeze(1)


def quantise_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes from 0 to 15, and for every group its scale and the number that code 8 means."""
    rows, width = weight.shape
    groups = weight.float().view(rows, width // GROUP, GROUP)
    least, most = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    scales = ((most - least) / _LEVELS).clamp(min=_SMALLEST)
    codes = ((groups - least) / scales).round().clamp(0, _LEVELS).to(torch.int32)
    return codes.view(rows, width), scales.squeeze(2), (least + scales * 8).squeeze(2)


def rounded_int8(weight: Tensor) -> Tensor:
    """Return the numbers that ``int8`` weights stand for."""
    codes, scales = quantise_int8(weight)
    return codes.float() * scales[:, None]


def rounded_int4(weight: Tensor) -> Tensor:
    """Return the numbers that ``int4`` weights stand for."""
    codes, scales, zeros = quantise_int4(weight)
    groups = codes.float().view(*scales.shape, GROUP)
    return ((groups - 8) * scales[:, :, None] + zeros[:, :, None]).view(weight.shape)
