"""The graph of everything that was recorded: a base of compressed rows, and what came since as
smaller ones, merged now and then.

Nodes are records, entities, and records that are only named so far. A link leads up, from what
came about to what it came from: from a record to what it used and was informed by, to its
environment and hardware, and from an entity to the records that generated it. Entities have the
name of their content, so a circle is possible (a job whose output equals its input) although
records form none.

One thread adds and merges; any thread reads a ``View``, which never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from aggregator.dag.labels import MISSING, RECORD, Label, Labels
from aggregator.dag.names import Cids, NameIndex, Names, merged_index
from aggregator.dag.rows import Ids, Rows, merged

TIERS: Final = 8
"""A segment merges with the one before unless that is so many times larger: few segments to look
into, and a link is copied about seven times until it is in a base of ten million records."""


class Arrivals(NamedTuple):
    """Records and links to add, as columns."""

    records: Cids
    record_labels: NDArray[np.int64]
    """For each record the place of its label in ``labels``."""
    labels: list[tuple[str, bytes, bytes | None, bytes | None]]
    """Kind, author, environment and hardware."""
    sources: Cids
    """For each link the record that states it."""
    targets: Cids
    target_labels: NDArray[np.int64]
    """For each link the place of its target's label in ``roles``."""
    roles: list[Label]
    leads_down: NDArray[np.bool_]
    """Whether the link's record generated its target."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The nodes and links that arrived in one stretch."""

    names: NameIndex
    up: Rows
    down: Rows

    @property
    def size(self) -> int:
        """How much there is to merge."""
        return self.up.size + self.up.high - self.up.low

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self.names.nbytes + self.up.nbytes + self.down.nbytes


@dataclass(frozen=True, slots=True)
class View:
    """The graph as it was at one moment."""

    segments: tuple[Segment, ...]
    labels: Labels
    codes: NDArray[Any]
    """The code of each node's label."""
    names: Names
    layout: int
    """Equal for two views in which everything has the same number and stands in the same order."""

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self.codes)

    def find(self, cid: bytes) -> int | None:
        """Return a CID's node."""
        return self.names.find(cid, [segment.names for segment in self.segments])

    def up(self, node: int) -> list[int]:
        """Return what a node came from, each once."""
        found = [int(each) for segment in self.segments for each in segment.up.row(node)]
        found += self.labels.blocks[int(self.codes[node])]
        return list(dict.fromkeys(found))


class Graph:
    """The graph that grows."""

    def __init__(self, folder: Path) -> None:
        """Begin empty; the file of names lies in ``folder``, which must have room for 36 bytes a
        node.
        """
        self._names = Names(folder)
        self._labels = Labels()
        self._segments: list[Segment] = []
        self._layout = 0

    @property
    def segment_count(self) -> int:
        """How many segments there are to look into."""
        return len(self._segments)

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self._labels.nbytes + sum(segment.nbytes for segment in self._segments)

    def view(self) -> View:
        """Return the graph as it is now."""
        segments = tuple(self._segments)
        sizes = [(segment.up.high, segment.up.size) for segment in segments]
        layout = crc32(repr(sizes).encode(), self._layout)
        codes = self._labels.of_nodes(segments[-1].up.high if segments else 0)
        return View(segments, self._labels, codes, self._names, layout)

    def add(self, arrivals: Arrivals) -> None:
        """Take in records and links. After a failure (no memory, a full disk) begin a new graph."""
        low = self._names.count
        numbers, index = self._number(arrivals)
        high = self._names.count
        records, blocks, sources, targets = numbers
        self._label(arrivals, records, blocks, targets)
        lower = np.where(arrivals.leads_down, targets, sources)
        upper = np.where(arrivals.leads_down, sources, targets)
        up = Rows.build(low, high, lower, upper)
        self._segments.append(Segment(index, up, Rows.build(low, high, upper, lower)))
        self._layout = crc32(b"%d %d" % (high, up.size), self._layout)

    def merge(self) -> bool:
        """Merge two segments if they should be, and tell whether there may be more to do."""
        for place in range(len(self._segments) - 1, 0, -1):
            older, newer = self._segments[place - 1], self._segments[place]
            if older.size < TIERS * newer.size:
                # Larger first, as in the index: nothing else is copied twice.
                names = merged_index(*_larger_first(older.names, newer.names))
                up, down = merged(older.up, newer.up), merged(older.down, newer.down)
                self._segments[place - 1 : place + 1] = [Segment(names, up, down)]
                return True
        return False

    def _number(self, arrivals: Arrivals) -> tuple[tuple[Ids, Ids, Ids, Ids], NameIndex]:
        """Return the nodes of records, blocks, and the links' both ends."""
        blocks = b"".join(block for label in arrivals.labels for block in label[2:] if block)
        starts, stretch = _stretches(arrivals.sources)
        parts = [
            arrivals.records,
            np.frombuffer(blocks, np.uint8).reshape(-1, arrivals.records.shape[1]),
            arrivals.sources[starts],
            arrivals.targets,
        ]
        indexes = [segment.names for segment in self._segments]
        ids, index = self._names.number(np.concatenate(parts), indexes)
        bounds = np.cumsum([len(part) for part in parts])[:-1]
        records, blocks_at, sources, targets = np.split(ids, bounds)
        return (records, blocks_at, sources[stretch], targets), index

    def _label(self, arrivals: Arrivals, records: Ids, blocks: Ids, targets: Ids) -> None:
        rest = iter(blocks.tolist())
        own = [
            Label(RECORD, kind, author, *(next(rest) if block else -1 for block in named))
            for kind, author, *named in arrivals.labels
        ]
        codes = np.array([self._labels.code(label) for label in own], np.uint32)
        roles = np.array([self._labels.code(label) for label in arrivals.roles], np.uint32)
        missing = self._labels.code(Label(MISSING, ""))
        nodes = np.concatenate([blocks, targets, records])
        labels = np.concatenate(
            [
                np.full(len(blocks), missing, np.uint32),
                roles[arrivals.target_labels],
                codes[arrivals.record_labels],
            ]
        )
        self._labels.set(nodes, labels, self._names.count)


def _larger_first(older: NameIndex, newer: NameIndex) -> tuple[NameIndex, NameIndex]:
    return (older, newer) if len(older.ids) >= len(newer.ids) else (newer, older)


def _stretches(cids: Cids) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where stretches of equal neighbours start, and for each row its stretch: a record's
    links stand side by side, so it needs to be looked up but once.
    """
    words = np.ascontiguousarray(cids).view(np.uint32)
    is_start = np.ones(len(cids), np.bool_)
    is_start[1:] = (words[1:] != words[:-1]).any(axis=1)
    return np.flatnonzero(is_start), np.cumsum(is_start) - 1
