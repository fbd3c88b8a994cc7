"""``make bench``: measure every subject, print one table and write ``bench.json``.

``make bench ONLY=jobs`` measures one subject. Baselines run in the same process tree, so that a
busy machine is busy for both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib import import_module

from tests.bench.figure import Figure
from tests.bench.processes import ROOT

SUBJECTS = (
    "connecting",
    "jobs",
    "transfer",
    "failover",
    "embedding",
    "generation",
    "sandboxing",
    "streaming",
    "codec",
    "emitting",
    "merging",
    "catchup",
    "exchanging",
    "lineage",
    "daemon",
    "grouping",
    "placement",
)
COLUMNS = ("figure", "value", "unit", "baseline", "baseline value", "ratio", "n", "spread")


def main(only: str) -> None:
    """Measure ``only`` one subject, or all."""
    measured: list[Figure] = []
    for subject in SUBJECTS:
        if only in ("", subject):
            began = time.monotonic()
            measured += import_module(f"tests.bench.{subject}").figures()
            print(f"{subject}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if not measured:
        sys.exit(f"there is no subject {only!r}; there are {', '.join(SUBJECTS)}")
    print(table(measured))
    rows = [asdict(each) for each in measured]
    (ROOT / "bench.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as aligned columns."""
    rows = [COLUMNS, *(tuple(map(_text, asdict(each).values())) for each in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
