"""How benchmarks are shown to a person."""

from __future__ import annotations

from typing import Any

from peer.cli import printable, table

COLUMNS = {
    "name": "FIGURE",
    "median": "MEDIAN",
    "half": "MIDDLE HALF",
    "p99": "P99",
    "all": "LEAST TO MOST",
    "n": "N",
    "spread": "SPREAD",
}


def number(value: float) -> str:
    """Return a figure with four digits that count."""
    return f"{value:.4g}" if value < 10_000 else f"{value:.0f}"


def spread(figure: dict[str, Any]) -> str:
    """Return how far the samples lie apart, and that it is much if it is."""
    told = f"{figure['spread_percent']:.0f} %"
    return f"{told}, noisy" if figure["is_noisy"] else told


def figures(row: dict[str, Any]) -> str:
    """Return the figures of a benchmark as a table."""
    cells = [
        {
            "name": figure["name"],
            "median": number(figure["median"]),
            "half": f"{number(figure['q1'])} to {number(figure['q3'])}",
            "p99": number(figure["p99"]),
            "all": f"{number(figure['least'])} to {number(figure['most'])}",
            "n": figure["n"],
            "spread": spread(figure),
        }
        for figure in row["figures"]
    ]
    return table(cells, COLUMNS, empty="no figures")


def subject(row: dict[str, Any]) -> str:
    """Return what was measured: the kind, and the model where it is one."""
    if row["model"] == "machine":
        return row["kind"]
    return f"{row['kind']} {row['model']} {row['precision']}"


def heading(row: dict[str, Any]) -> str:
    """Return one line about a benchmark."""
    return printable(f"{subject(row)} at {row['worker']}, {row['cid']}")


def fields(values: dict[str, Any]) -> str:
    """Return a map in one line."""
    return printable(", ".join(f"{name} {value}" for name, value in values.items())) or "-"
