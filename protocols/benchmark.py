"""What a benchmark is asked for and what it answers: parameters and figures as strict DAG-CBOR, and
how samples become a figure.

A figure says how many samples it rests on and how far they lie apart; its unit is the end of its
name. Nothing here measures anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from protocols import dagcbor
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import (
    MAX_BENCH_FIGURES,
    MAX_BENCH_INPUT_BYTES,
    MAX_BENCH_OUTPUT_BYTES,
    MAX_BENCH_SAMPLES,
)

VERSION: Final = 1
DIGITS: Final = 6  # significant ones: no clock and no machine is steadier

SHARES: Final = {
    "least": 0.0,
    "q1": 0.25,
    "median": 0.5,
    "q3": 0.75,
    "p95": 0.95,
    "p99": 0.99,
    "most": 1.0,
}
"""The share of the samples that lies below each rank."""

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
Amount = Annotated[float, Meta(gt=0, lt=1e15)]

P = TypeVar("P", bound=msgspec.Struct)


class Figure(msgspec.Struct, frozen=True, array_like=True):
    """One measured quantity: the order statistics of ``n`` samples, all in the unit that ends its
    name. Percentiles lie between neighbouring samples; of few samples they are nearly the largest.
    """

    name: Name
    is_higher_better: bool
    n: Annotated[int, Meta(ge=1, le=MAX_BENCH_SAMPLES)]
    least: Amount
    q1: Amount
    median: Amount
    q3: Amount
    p95: Amount
    p99: Amount
    most: Amount
    threads: Annotated[int, Meta(ge=0, le=65_536)] = 0
    """Of the computation; 0 where that means nothing."""

    def __post_init__(self) -> None:
        ranks = (self.least, self.q1, self.median, self.q3, self.p95, self.p99, self.most)
        if not all(math.isfinite(value) for value in ranks) or list(ranks) != sorted(ranks):
            raise ValueError("the figure's percentiles do not ascend")  # msgspec turns it around

    @property
    def spread(self) -> float:
        """The middle half of the samples, as a share of the median."""
        return (self.q3 - self.q1) / self.median


class Figures(msgspec.Struct, frozen=True, array_like=True):
    """What a benchmark answers."""

    version: Annotated[int, Meta(ge=1, le=VERSION)]
    figures: Annotated[tuple[Figure, ...], Meta(min_length=1, max_length=MAX_BENCH_FIGURES)]

    def __post_init__(self) -> None:
        if len({figure.name for figure in self.figures}) < len(self.figures):
            raise ValueError("two figures have one name")


def figure_of(
    name: str, samples: Sequence[float], *, is_higher_better: bool, threads: int = 0
) -> Figure:
    """Return the figure that these samples make; they are positive, and at least one."""
    ordered = sorted(samples)
    ranks = {rank: _rounded(_percentile(ordered, share)) for rank, share in SHARES.items()}
    return Figure(name, is_higher_better, len(ordered), **ranks, threads=threads)


def encode_figures(figures: Sequence[Figure]) -> bytes:
    """Return a benchmark's output; raises ``LocalProtocolError`` for one that others would
    refuse.
    """
    fields: Any = msgspec.to_builtins(Figures(VERSION, tuple(figures)))
    encoded = dagcbor.encode(fields, max_bytes=MAX_BENCH_OUTPUT_BYTES)
    try:
        decode_figures(encoded)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"figures are invalid: {error}") from error
    return encoded


def decode_figures(output: bytes) -> tuple[Figure, ...]:
    """Return the figures of an output; raises ``RemoteProtocolError`` unless every rule holds."""
    return _convert(output, Figures, MAX_BENCH_OUTPUT_BYTES).figures


def encode_parameters(parameters: msgspec.Struct) -> bytes:
    """Return a benchmark's input."""
    return dagcbor.encode(msgspec.to_builtins(parameters), max_bytes=MAX_BENCH_INPUT_BYTES)


def decode_parameters(content: bytes, schema: type[P]) -> P:
    """Return the parameters of an input; raises ``RemoteProtocolError`` unless every rule holds."""
    return _convert(content, schema, MAX_BENCH_INPUT_BYTES)


def _convert(encoded: bytes, schema: type[P], max_bytes: int) -> P:
    try:
        return msgspec.convert(dagcbor.decode(encoded, max_bytes=max_bytes), type=schema)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"not a benchmark's {schema.__name__}: {error}") from error


def _percentile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return min(low + (high - low) * (place - below), high)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
