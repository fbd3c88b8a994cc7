"""Figures ``grouping_b3_python`` and ``fingerprint_us``: how well and how fast faults are grouped.

The data are labelled tracebacks (``tests/data/README.md``). Quality is B-cubed: for each report,
the share of its group that is its fault (precision) and of its fault that is its group (recall),
averaged over reports. The baseline looks at type and message only.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Final

from protocols.fingerprint import fingerprint, first_line
from protocols.report import ExceptionInfo, Frame
from tests.bench.figure import Figure, figure

DATA: Final = Path(__file__).parents[1] / "data" / "python_faults.jsonl"
ROOTS: Final = ("networkx", "toolz", "h11", "trio")

Chain = tuple[ExceptionInfo, ...]


def labelled_chains() -> list[tuple[str, str, Chain]]:
    """Return (fault, peer, chain of exceptions) of each trace, as capture would have made it."""
    rows = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    return [(row["label"], row["peer"], tuple(map(_exception, row["exceptions"]))) for row in rows]


def _exception(row: dict[str, Any]) -> ExceptionInfo:
    return ExceptionInfo(
        row["type"], row["module"], row["value"], tuple(map(_frame, row["frames"]))
    )


def _frame(row: dict[str, Any]) -> Frame:
    is_generated = row["abs_path"].startswith("<")
    return Frame(row["module"], row["function"], row["lineno"], is_generated)


def by_fingerprint(chain: Chain) -> Hashable:
    return fingerprint(chain, ROOTS).fine


def by_message(chain: Chain) -> Hashable:
    """Group as trackers without stack traces do: names in quotes are told apart, numbers not."""
    return chain[-1].type, re.sub(r"0x[0-9a-f]+|\d+", "<n>", first_line(chain[-1].value))


def b_cubed(labels: Sequence[Hashable], groups: Sequence[Hashable]) -> tuple[float, float, float]:
    """Return precision, recall and F1."""
    label_sizes, group_sizes = Counter(labels), Counter(groups)
    both = Counter(zip(labels, groups, strict=True))
    pairs = list(zip(labels, groups, strict=True))
    precision = sum(both[pair] / group_sizes[pair[1]] for pair in pairs) / len(pairs)
    recall = sum(both[pair] / label_sizes[pair[0]] for pair in pairs) / len(pairs)
    return precision, recall, 2 * precision * recall / (precision + recall)


def agreement(rows: list[tuple[str, str, Chain]], key: Callable[[Chain], Hashable]) -> float:
    """Return the share of faults for which two peers, of other paths and versions, share a key."""
    keys: defaultdict[str, defaultdict[str, set[Hashable]]] = defaultdict(lambda: defaultdict(set))
    for label, peer, chain in rows:
        keys[label][peer].add(key(chain))
    shared = [bool(set.intersection(*peers.values())) for peers in keys.values()]
    return sum(shared) / len(shared)


def figures() -> list[Figure]:
    """Measure quality and cost."""
    rows = labelled_chains()
    labels = [label for label, _, _ in rows]
    ours = b_cubed(labels, [by_fingerprint(chain) for _, _, chain in rows])[2]
    plain = b_cubed(labels, [by_message(chain) for _, _, chain in rows])[2]
    ours_us, plain_us = _cpu_us(rows, by_fingerprint), _cpu_us(rows, by_message)
    base = "type and message without numbers"
    n = len(rows) * len(ours_us)
    return [
        figure(
            "grouping_b3_python", "F1", [ours], n=len(rows), baseline=base, baseline_rounds=[plain]
        ),
        figure("fingerprint_us", "µs CPU", ours_us, n=n, baseline=base, baseline_rounds=plain_us),
    ]


def _cpu_us(rows: list[tuple[str, str, Chain]], key: Callable[[Chain], Hashable]) -> list[float]:
    """Return the CPU time a call takes, in seven rounds over all traces."""
    rounds: list[float] = []
    for _ in range(7):
        start_s = time.process_time()
        for _, _, chain in rows:
            key(chain)
        rounds.append((time.process_time() - start_s) / len(rows) * 1e6)
    return rounds
