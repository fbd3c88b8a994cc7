"""A walk over the graph, nearest nodes first, that can be left at any node and gone on with.

Most closures have a few hundred nodes, for which lists and a set are fastest; some have millions,
for which arrays are. So a walk begins with the former and goes over to the latter by itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Final, cast

import numpy as np

from aggregator.dag.graph import View
from aggregator.dag.labels import OUTPUT, with_labels
from aggregator.dag.reach import Reach
from aggregator.dag.rows import Ids

FEW: Final = 64  # nodes of a level up to which lists are faster
SEEN_IN_SET: Final = 4_096
PIECE: Final = 1 << 13  # nodes gone on from at once: what a first page costs at least

Found = Ids | list[int]
Step = tuple[int, Found]
"""A depth, and nodes that were found there."""

NO_STEP: Final[Step] = (0, [])


class Walk:
    """The nodes around a start, each once, with the number of links between."""

    def __init__(self, view: View, reach: Reach, start: int | list[int]) -> None:
        """Start at a node, which does not count itself, or one link before all nodes whose labels
        have one of these codes.
        """
        self.view = view
        self._reach = reach
        self._start = start
        self._codes: Any = view.codes.data
        self._rows = [part.up if reach.leads_up else part.down for part in view.segments]
        self._few_seen: set[int] | None = set()
        self._seen: Any = None
        self._is_output: Any = None
        self._steps = self._walked()
        self._rest: Found = []
        self._rest_depth = 0
        self.is_done = False
        self.is_cut = False
        """Whether the depth ended the walk; known once it is done."""

    @property
    def nbytes(self) -> int:
        """Memory that a walk takes while nobody goes on with it, in bytes."""
        return 0 if self._seen is None else 5 * self._seen.nbytes  # at worst all are in one level

    def take(self, limit: int) -> list[tuple[int, int]]:
        """Return the next nodes, at most so many, each with its depth."""
        taken: list[tuple[int, int]] = []
        while True:
            part = self._rest[: limit - len(taken)]
            self._rest = self._rest[len(part) :]
            nodes = part if isinstance(part, list) else part.tolist()
            taken += zip(nodes, repeat(self._rest_depth))
            if len(self._rest) or self.is_done:
                return taken
            self._rest_depth, self._rest = next(self._steps, NO_STEP)
            self.is_done = not self._rest_depth

    def skip(self, count: int) -> None:
        """Leave out the next nodes."""
        while count and not self.is_done:
            count -= len(self.take(min(count, PIECE)))

    def _walked(self) -> Iterator[Step]:
        level, depth = self._first_level()
        while depth < self._reach.depth:
            depth += 1
            next_level: list[Found] = []
            for found in self._around(level):
                next_level.append(found)
                counted = self._counted(found)
                if len(counted):
                    yield depth, counted
            if not any(map(len, next_level)):
                return
            level = next_level
        self.is_cut = not self._reach.is_all and any(map(len, self._around(level)))

    def _first_level(self) -> tuple[list[Found], int]:
        start = self._start
        if isinstance(start, list):
            return [], 0
        self._unseen([start])
        return [[start]], 0

    def _around(self, level: list[Found]) -> Iterator[Found]:
        """Yield what lies one link beyond and was not seen yet."""
        if not level and isinstance(self._start, list):
            found_by_label = with_labels(self.view.codes, self._start, len(self.view.labels.table))
            yield from map(self._unseen, found_by_label)
        for nodes in _pieces(level):
            is_few = len(nodes) <= FEW
            beyond = self._beyond_few(nodes) if is_few else self._beyond(np.asarray(nodes))
            for found in beyond:
                if len(found):
                    yield self._unseen(found)

    def _beyond_few(self, nodes: Found) -> Iterator[Found]:
        blocks, codes = self.view.labels.blocks, self._codes
        found: list[int] = []
        for node in nodes:
            for rows in self._rows:
                row = rows.row(int(node))
                if isinstance(row, np.ndarray):
                    yield row
                else:
                    found += row
            if self._reach.leads_up:
                found += blocks[int(codes[node])]
        yield found
        if not self._reach.leads_up:
            is_block = self.view.labels.is_block
            yield from self._of_blocks([node for node in nodes if is_block(int(node))])

    def _beyond(self, nodes: Ids) -> Iterator[Found]:
        view = self.view
        for rows in self._rows:
            yield rows.gather(nodes)
        if self._reach.leads_up:
            codes: list[int] = np.unique(view.codes[nodes]).tolist()
            yield [block for code in codes for block in view.labels.blocks[code]]
        else:
            yield from self._of_blocks(np.intersect1d(nodes, view.labels.all_blocks()).tolist())

    def _of_blocks(self, blocks: list[int]) -> Iterator[Ids]:
        labels = self.view.labels
        return with_labels(self.view.codes, labels.of_blocks(blocks), len(labels.table))

    def _unseen(self, found: Found) -> Found:
        """Return what was not seen yet, each once; now it was."""
        if self._few_seen is not None:
            if len(found) + len(self._few_seen) <= SEEN_IN_SET:
                nodes = found if isinstance(found, list) else found.tolist()
                fresh = [each for each in dict.fromkeys(nodes) if each not in self._few_seen]
                self._few_seen.update(fresh)
                return fresh
            # Mapped by itself: malloc would keep its 17 MB for each thread that ever walked.
            self._seen = np.frombuffer(cast("Any", mmap.mmap(-1, self.view.count)), np.bool_)
            self._seen[list(self._few_seen)] = True
            self._few_seen = None
        nodes = _each_once(np.asarray(found, np.int32))
        fresh = nodes[~self._seen[nodes]]
        self._seen[fresh] = True
        return fresh

    def _counted(self, found: Found) -> Found:
        if not self._reach.only_outputs:
            return found
        table = self.view.labels.table
        if isinstance(found, list):
            return [node for node in found if table[self._codes[node]].rank == OUTPUT]
        if self._is_output is None:  # by label; later ones are of nodes that this view lacks
            self._is_output = np.array([label.rank == OUTPUT for label in table])
        return found[self._is_output[self.view.codes[found]]]


def _pieces(level: list[Found]) -> Iterator[Found]:
    for found in level:
        for first in range(0, len(found), PIECE):
            yield found[first : first + PIECE]


def _each_once(nodes: Ids) -> Ids:
    if (nodes[1:] > nodes[:-1]).all():
        return nodes
    nodes = np.sort(nodes)
    is_first = np.ones(len(nodes), np.bool_)
    is_first[1:] = nodes[1:] != nodes[:-1]
    return nodes[is_first]
