"""Figures beside each other: what differs between benchmarks, and whether a repeated one came out
the same.

Figures are compared by their medians. A difference inside what both vary by themselves is said to
be none: the middle halves of their samples overlap. Nothing here reads records or prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.benchmarks.statement import figures_of, is_noisy
from protocols.benchmark import Figure

TOLERANCE_PERCENT: Final = 25.0
"""By how much a repeated figure may differ by default: on two shared cores the network's figures
came out 7 to 19 percent away. Those of the processor came out up to 43 away while others computed
there, which is to fail.
"""
DURATIONS: Final = frozenset({"seconds", "pings", "rounds"})
"""Parameters that say how long to measure, not what."""

Row = Mapping[str, Any]
Subject = tuple[str, str, str]

_NONE: Final[tuple[Row, dict[str, Figure]]] = ({}, {})


def compare(columns: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Return each figure once, with what each column says of it: a list of cells in the order of
    ``columns``, None where one has no such figure. A column is some benchmarks, no two of them of
    one kind, model and precision.

    Each cell is held against the first that is there: ``ratio`` and ``verdict`` (``better``,
    ``worse``, ``within-spread``; ``incomparable`` when it was measured with other parameters).
    """
    known = [{_subject(row): (row, figures_of(row)) for row in column} for column in columns]
    subjects = dict.fromkeys(subject for column in known for subject in column)
    return [
        _compared(subject, name, [column.get(subject) for column in known])
        for subject in subjects
        for name in dict.fromkeys(n for column in known for n in column.get(subject, _NONE)[1])
    ]


def judge(before: Row, after: Row, tolerance_percent: float) -> dict[str, Any]:
    """Return whether a repeated benchmark came out as before: it passes when every figure of the
    first is there again, and the larger of the two medians is at most ``tolerance_percent`` above
    the smaller one. So a rate and the time that it takes pass or fail together.
    """
    olds, news = figures_of(before), figures_of(after)
    judged = [_judged(old, news.get(name), tolerance_percent) for name, old in olds.items()]
    worst = max((each["apart_percent"] or 0.0 for each in judged), default=0.0)
    return {
        "is_passed": all(each["is_passed"] for each in judged),
        "tolerance_percent": tolerance_percent,
        "worst_apart_percent": worst,
        "figures": judged,
        "changed": changed(before, after),
    }


def changed(before: Row, after: Row) -> dict[str, list[Any]]:
    """Return what was not the same about how two benchmarks ran: software, engine, threads…"""
    told = [{**row["execution"], "software": row["software"]} for row in (before, after)]
    names = sorted(set(told[0]) | set(told[1]))
    pairs = {name: [each.get(name) for each in told] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _compared(
    subject: Subject, name: str, found: Sequence[tuple[Row, dict[str, Figure]] | None]
) -> dict[str, Any]:
    cells: list[dict[str, Any] | None] = []
    first: tuple[Row, Figure] | None = None
    for row, figures in (each or _NONE for each in found):
        figure = figures.get(name)
        cells.append(None if figure is None else _cell(first, row, figure))
        if first is None and figure is not None:
            first = (row, figure)
    kind, model, precision = subject
    return {"kind": kind, "model": model, "precision": precision, "figure": name, "cells": cells}


def _cell(first: tuple[Row, Figure] | None, row: Row, figure: Figure) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "median": figure.median,
        "spread_percent": round(figure.spread * 100, 2),
        "least": figure.least,
        "most": figure.most,
        "n": figure.n,
        "is_noisy": is_noisy(figure),
        "ratio": None,
        "verdict": None,
    }
    if first is None:
        return cell
    if _asked(first[0]) != _asked(row):
        return {**cell, "verdict": "incomparable"}
    ratio = round(figure.median / first[1].median, 4)
    return {**cell, "ratio": ratio, "verdict": _verdict(first[1], figure)}


def _verdict(first: Figure, other: Figure) -> str:
    if first.q1 <= other.q3 and other.q1 <= first.q3:
        return "within-spread"
    is_higher = other.median > first.median
    return "better" if is_higher is other.is_higher_better else "worse"


def _judged(old: Figure, new: Figure | None, tolerance_percent: float) -> dict[str, Any]:
    apart = None if new is None else _apart_percent(old.median, new.median)
    return {
        "figure": old.name,
        "before": old.median,
        "after": new.median if new else None,
        "change_percent": round((new.median / old.median - 1) * 100, 2) if new else None,
        "apart_percent": apart,
        "spread_before_percent": round(old.spread * 100, 2),
        "spread_after_percent": round(new.spread * 100, 2) if new else None,
        "is_noisy": is_noisy(old) or (new is not None and is_noisy(new)),
        "is_passed": apart is not None and apart <= tolerance_percent,
    }


def _apart_percent(one: float, other: float) -> float:
    return round((max(one, other) / min(one, other) - 1) * 100, 2)


def _subject(row: Row) -> Subject:
    return row["kind"], row["model"], row["precision"]


def _asked(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row["parameters"].items() if name not in DURATIONS}
