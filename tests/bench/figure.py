"""One measured figure beside its baseline, as the table and ``bench.json`` show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """``spread`` is the largest less the smallest of the rounds, ``n`` what was measured in all of
    them: jobs, records, starts.
    """

    figure: str
    value: float
    unit: str
    baseline: str
    baseline_value: float | None
    ratio: float | None
    n: int
    spread: float


def figure(
    name: str,
    unit: str,
    rounds: Sequence[float],
    *,
    n: int,
    baseline: str = "",
    baseline_rounds: Sequence[float] = (),
) -> Figure:
    """Return the median of ``rounds`` beside the median of ``baseline_rounds``."""
    value = median(rounds)
    base = median(baseline_rounds) if baseline_rounds else None
    return Figure(
        figure=name,
        value=_short(value),
        unit=unit,
        baseline=baseline,
        baseline_value=None if base is None else _short(base),
        ratio=None if not base else _short(value / base),
        n=n,
        spread=_short(max(rounds) - min(rounds)),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _short(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
