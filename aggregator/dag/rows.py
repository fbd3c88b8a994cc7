"""Compressed rows: the neighbours of numbered nodes in one direction, in a tenth of the memory of
lists of lists.

A ``Rows`` covers every node of a range ``[low, high)``, one start each, and besides them the few
older nodes that got neighbours while that range was born. Two adjoining ones merge into one.
Nothing here changes once it is made, so whoever reads needs no lock.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregator.dag.offsets import Offsets, Starts

LONG_ROW: Final = 256  # neighbours from which an array is handled faster than a list

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Few:
    """Rows of some nodes only: ``ids`` ascend, row ``i`` is ``cells[starts[i]:starts[i + 1]]``."""

    ids: Ids
    starts: Starts
    cells: Ids

    @classmethod
    def of(cls, sources: Ids, targets: Ids) -> Few:
        """Group ``targets`` by ``sources``, which ascend."""
        ids, counts = np.unique(sources, return_counts=True)
        return cls(ids, starts_of(counts), targets)

    def part(self, first: int, last: int) -> Few:
        """Return rows ``[first, last)``."""
        cells = self.cells[self.starts[first] : self.starts[last]]
        return Few(self.ids[first:last], self.starts[first : last + 1] - self.starts[first], cells)

    def sources(self) -> Ids:
        """Return the node of each cell."""
        return np.repeat(self.ids, np.diff(self.starts))


class Rows:
    """Neighbours of the nodes ``[low, high)`` and of some older ones, in the order in which the
    links arrived.
    """

    def __init__(self, low: int, starts: Starts, cells: Ids, few: Few) -> None:
        self.low = low
        self.high = low + len(starts) - 1
        self.starts = Offsets(starts)
        self.cells = cells
        self.few = few
        self._cells: Any = cells.data  # ten times faster than an array for single items
        self._few: Any = few.ids.data
        self._few_starts: Any = few.starts.data

    @classmethod
    def build(cls, low: int, high: int, sources: Ids, targets: Ids) -> Rows:
        """Return the rows of links ``sources[i] -> targets[i]``, none of whose sources is as high
        as ``high``.
        """
        order = np.argsort(sources, kind="stable")
        sources, targets = sources[order], targets[order]
        split = int(np.searchsorted(sources, low))
        counts = np.bincount(sources[split:] - low, minlength=high - low)
        few = Few.of(sources[:split], targets[:split].copy())
        return cls(low, starts_of(counts), targets[split:].copy(), few)

    @property
    def size(self) -> int:
        """How many links there are."""
        return len(self.cells) + len(self.few.cells)

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        few = self.few
        return sum(a.nbytes for a in (self.starts, self.cells, few.ids, few.starts, few.cells))

    def row(self, node: int) -> Ids | list[int]:
        """Return one node's neighbours: a list if they are few, else the array itself."""
        if self.low <= node < self.high:
            at = node - self.low
            first, last = self.starts[at], self.starts[at + 1]
            is_long = last - first > LONG_ROW
            return self.cells[first:last] if is_long else self._cells[first:last].tolist()
        at = bisect_left(self._few, node)
        if at < len(self._few) and self._few[at] == node:
            return self.few.cells[self._few_starts[at] : self._few_starts[at + 1]].tolist()
        return []

    def gather(self, nodes: Ids) -> Ids:
        """Return the neighbours of all ``nodes``, row after row, those of older nodes last."""
        inside = nodes[(nodes >= self.low) & (nodes < self.high)] - self.low
        found = [_gathered(self.cells, self.starts.at(inside), self.starts.at(inside + 1))]
        few = self.few
        if len(few.ids):
            at = np.searchsorted(few.ids, nodes)
            at[at == len(few.ids)] = 0
            hits = at[few.ids[at] == nodes]
            first, last = (few.starts[each].astype(np.int64) for each in (hits, hits + 1))
            found.append(_gathered(few.cells, first, last))
        return np.concatenate(found)


def merged(older: Rows, newer: Rows) -> Rows:
    """Return the rows of two adjoining ranges as one; rows keep their order, the older's first."""
    split = int(np.searchsorted(newer.few.ids, older.low))
    count = len(newer.few.ids)
    late = newer.few.part(split, count)  # links of nodes that the older range has
    where = late.ids - older.low + 1
    starts = older.starts.every()
    at = np.repeat(starts[where], np.diff(late.starts))
    extra = np.zeros(len(starts), np.uint32)
    extra[where] = np.diff(late.starts)
    np.cumsum(extra, out=extra)
    starts += extra
    del extra
    total = len(older.cells) + len(late.cells)
    cells = np.empty(total + len(newer.cells), np.int32)
    insert_into(cells[:total], older.cells, at, late.cells)
    cells[total:] = newer.cells
    starts = np.concatenate([starts, newer.starts.every()[1:] + np.uint32(total)])
    return Rows(older.low, starts, cells, _joined(older.few, newer.few.part(0, split)))


def insert_into(
    out: NDArray[Any], values: NDArray[Any], at: NDArray[Any], others: NDArray[Any]
) -> None:
    """Fill ``out`` with ``values`` and, each in front of ``values[at[i]]``, ``others[i]``; ``at``
    ascends. ``numpy.insert`` does the same with three times the memory.
    """
    places = at.astype(np.int64) + np.arange(len(at))
    is_kept = np.ones(len(out), np.bool_)
    is_kept[places] = False
    out[places] = others
    out[is_kept] = values


def starts_of(counts: NDArray[Any]) -> Starts:
    """Return where rows of these lengths start, and the end."""
    starts = np.zeros(len(counts) + 1, np.uint32)
    np.cumsum(counts, out=starts[1:])
    return starts


def _joined(older: Few, newer: Few) -> Few:
    sources = np.concatenate([older.sources(), newer.sources()])
    targets = np.concatenate([older.cells, newer.cells])
    order = np.argsort(sources, kind="stable")
    return Few.of(sources[order], targets[order])


def _gathered(cells: Ids, first: NDArray[np.int64], last: NDArray[np.int64]) -> Ids:
    counts = last - first
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return np.empty(0, np.int32)
    return cells[np.repeat(first - ends + counts, counts) + np.arange(ends[-1])]
