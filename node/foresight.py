"""What a job will cost on a machine that has not done one like it: from the size of the model and
what the machine was measured to do. Right within a few times, which is what a promise needs; the
first job of some size replaces it (``node.throughput``). Pure.

A transformer computes two operations a weight and token. Texts are read many tokens at once, at the
rate of a matrix multiplication: their matrices are smaller than the measured one, but up to half of
the weights are tables that cost nothing, which evens out. They are written token by token, and each
waits for all weights to come from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.requirements import SPEED, number
from node.throughput import ITEM_WORK

READING: Final = frozenset({"embed", "classify", "pipeline"})
"""Kinds that read texts; of others than these and ``WRITING`` nothing is foreseen."""
WRITING: Final = "generate"
BF16_SPEED: Final = "matmul_bf16_gflops"
"""Only accelerators state it; the processor's speed in ``SPEED`` is fp32's."""
MEMORY: Final = "memory_gb_s"

WEIGHT_BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
TOKEN_BYTES: Final = 4.0  # of English text; ITEM_WORK is two tokens
MEMORY_SHARE: Final = 0.5  # of a copy's rate, which is 2 bytes moved for each that is counted
START_S: Final = 3.0  # a runner's start and import of torch, before it reads weights
DISK_GB_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """What of a model decides how long its jobs take: its files, the precision that they are in and
    the one that it computes in, and the longest text that it reads.
    """

    size_bytes: int
    stored: str
    computed: str
    max_tokens: int

    @property
    def count(self) -> float:
        """How many there are."""
        return self.size_bytes / WEIGHT_BYTES.get(self.stored, 4.0)

    @property
    def computed_bytes(self) -> float:
        """How many bytes of memory they take."""
        return self.count * WEIGHT_BYTES.get(self.computed, 4.0)


def work_s(
    kind: str, weights: Weights, units: int, size_bytes: int, figures: Mapping[str, Any]
) -> float | None:
    """Return how long a job will compute: ``units`` items, or for ``generate`` tokens. ``figures``
    are the processor's or an accelerator's, as an advert has them. None when nothing is foreseen.
    """
    in_bf16 = number(figures.get(BF16_SPEED)) if weights.computed != "fp32" else 0.0
    gflops, memory_gb_s = in_bf16 or number(figures.get(SPEED)), number(figures.get(MEMORY))
    if not gflops or (kind == WRITING and not memory_gb_s):
        return None
    token_s = 2 * weights.count / (gflops * 1e9)
    read = size_bytes / TOKEN_BYTES
    if kind in READING:
        read += units * ITEM_WORK / TOKEN_BYTES
        return min(read, units * weights.max_tokens or read) * token_s
    if kind == WRITING and memory_gb_s:
        written_s = weights.computed_bytes / (memory_gb_s * 1e9 * MEMORY_SHARE)
        return read * token_s + units * max(written_s, token_s)
    return None


def load_s(weights: Weights) -> float:
    """Return how long a runner will take to start with a model."""
    return START_S + weights.size_bytes / (DISK_GB_S * 1e9)
