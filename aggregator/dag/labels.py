"""What each node of the graph is: one number for each, into a table of the few different labels.

Kind, author, environment and hardware of a record repeat by the million, so together they are one
label; those two links of a record are therefore not kept among the links at all. An entity's label
is its role. A node that is named in several ways has the one label that ranks first, whatever
arrived first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.dag.rows import Ids

RECORD, MISSING, OUTPUT, GENERATED, USED, UNKNOWN = range(6)
"""Ranks: a record that is here, one that is only named; entities generated as output, generated
otherwise, and used."""

NO_BLOCK: Final = -1
SCANNED_AT_ONCE: Final = 1 << 20  # nodes; a first page needs no more of a hub's millions
COMPARED_EACH: Final = 8  # labels up to which it is faster to compare with each than to look up
_GROWTH: Final = 1.125


class Label(NamedTuple):
    """A node's label; labels sort by their rank first."""

    rank: int
    name: str
    """A record's kind, an entity's role."""
    author: bytes = b""
    environment: int = NO_BLOCK
    hardware: int = NO_BLOCK


class Labels:
    """The labels of all nodes. Only ``set`` and ``code`` change anything, in one thread; meanwhile
    others may read, and what ``of_nodes`` returned to them stays as it is.
    """

    def __init__(self) -> None:
        self.table: list[Label] = [Label(UNKNOWN, "")]
        self.blocks: list[list[int]] = [[]]
        """Of each label the environment and the hardware, as far as it has them."""
        self._codes: dict[Label, int] = {self.table[0]: 0}
        self._by_author: dict[bytes, list[int]] = {}
        self._by_block: dict[int, list[int]] = {}
        self._of_nodes: NDArray[Any] = np.zeros(0, np.uint16)
        self._shown = 0

    @property
    def nbytes(self) -> int:
        """Memory of the nodes' part, in bytes."""
        return self._of_nodes.nbytes

    def of_nodes(self, count: int) -> NDArray[Any]:
        """Return the codes of the first ``count`` nodes."""
        self._shown = max(self._shown, count)
        return self._of_nodes[:count]

    def code(self, label: Label) -> int:
        """Return the number of a label, a new one for a new label."""
        if label not in self._codes:
            code = self._codes[label] = len(self.table)
            blocks = sorted({label.environment, label.hardware} - {NO_BLOCK})
            self.blocks.append(blocks)
            self.table.append(label)
            if label.rank == RECORD:
                self._by_author.setdefault(label.author, []).append(code)
                for block in blocks:
                    self._by_block.setdefault(block, []).append(code)
        return self._codes[label]

    def of_author(self, author: bytes) -> list[int]:
        """Return the codes of all labels that name this author."""
        return list(self._by_author.get(author, ()))

    def of_blocks(self, nodes: Iterable[int]) -> list[int]:
        """Return the codes of all labels that name one of these nodes as environment or
        hardware.
        """
        return [code for node in nodes for code in self._by_block.get(node, ())]

    def is_block(self, node: int) -> bool:
        """Tell whether a record names the node as its environment or hardware."""
        return node in self._by_block

    def all_blocks(self) -> Ids:
        """Return all environments and hardwares."""
        return np.array(list(self._by_block), np.int32)

    def set(self, nodes: Ids, codes: Sequence[int] | NDArray[Any], count: int) -> None:
        """Give ``nodes`` labels where those rank before what they have, once there are ``count``
        nodes.
        """
        self._grow(count)
        codes = np.asarray(codes, np.uint32)
        had = self._of_nodes[nodes]
        known = np.unique(np.concatenate([codes, had.astype(np.uint32)]))
        labels = list(map(self.table.__getitem__, known.tolist()))
        ranked = sorted(range(len(known)), key=labels.__getitem__)
        order = np.empty(len(known), np.uint32)
        order[ranked] = np.arange(len(known))
        rank, rank_had = (order[np.searchsorted(known, each)] for each in (codes, had))
        is_better = rank < rank_had
        nodes, codes, rank = nodes[is_better], codes[is_better], rank[is_better]
        if (nodes < self._shown).any():  # somebody may be walking there
            self._of_nodes = self._of_nodes.copy()
            self._shown = 0
        first_last = np.argsort(rank, kind="stable")[::-1]  # of equal nodes the last one stays
        self._of_nodes[nodes[first_last]] = codes[first_last]

    def _grow(self, count: int) -> None:
        needed = np.uint16 if len(self.table) <= 1 << 16 else np.uint32
        size = len(self._of_nodes)
        if count > size:
            size = max(count, int(size * _GROWTH))
        if size > len(self._of_nodes) or np.dtype(needed) != self._of_nodes.dtype:
            grown = np.zeros(size, needed)
            grown[: len(self._of_nodes)] = self._of_nodes
            self._of_nodes = grown


def with_labels(of_nodes: NDArray[Any], codes: Sequence[int], table_size: int) -> Iterator[Ids]:
    """Yield, ascending and in parts, the nodes that have one of these labels."""
    is_wanted = np.zeros(table_size, np.bool_)
    is_wanted[list(codes)] = True
    for first in range(0, len(of_nodes) if codes else 0, SCANNED_AT_ONCE):
        part = of_nodes[first : first + SCANNED_AT_ONCE]
        if len(codes) <= COMPARED_EACH:
            is_one = part == codes[0]
            for code in codes[1:]:
                is_one |= part == code
        else:
            is_one = is_wanted[part]
        yield (np.flatnonzero(is_one) + first).astype(np.int32)
