"""Answers who came from whom, over a graph in memory that follows the index.

An aggregator that nobody asks and that holds little keeps no graph: it is made at the first
question, or as soon as making it would keep somebody waiting. Whatever the graph says is what the
recursive query over the index says; the graph may be given up at any time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from aggregator.dag.reach import Reach
from aggregator.errors import NotFoundError, PageExpiredError
from aggregator.explain import RUN
from aggregator.store import Extent, Store
from peer.index import Index
from protocols.cid import CID, CID_BYTES

if TYPE_CHECKING:  # numpy takes 20 MB, and an idle aggregator has no use for it
    from aggregator.dag.graph import Graph, View
    from aggregator.dag.labels import Label
    from aggregator.dag.walk import Walk

log = logging.getLogger(__name__)

WARM_FROM_ROWS: Final = 100_000  # the graph of fewer is made in the second that a question may take
ROW_BYTES: Final = 16  # about what a row takes in the graph
FOLLOW_EVERY_S: Final = 1.0
PART: Final = Extent(1 << 18, 1 << 19)  # rows at once: others want the index within 0.2 s
MAX_SEGMENTS: Final = 12  # past this a question that adds to the graph also merges
HELD_WALKS: Final = 4
HELD_BYTES: Final = 128 << 20
MADE_LINKS: Final = 2  # from where a run was made, over the run, to its outputs


class Node(NamedTuple):
    """A node of an answer."""

    cid: bytes
    depth: int
    label: Label


class Page(NamedTuple):
    """Some nodes, nearest first; ``cursor`` is where the next page starts, none at the end."""

    nodes: list[Node]
    cursor: Cursor | None
    is_cut: bool
    """Whether the depth ended it; known with the last page."""


class Cursor(NamedTuple):
    """Where a page starts: after so many nodes, in a graph of this layout."""

    layout: int
    position: int


@dataclass(frozen=True, slots=True)
class Question:
    """Nodes around a CID, or around all records of an author (a feed's key)."""

    start: bytes
    reach: Reach
    is_author: bool = False


class Ancestry:
    """The graph of one aggregator. ``run`` alone makes it ahead of a question; without it, it is
    made when asked.
    """

    def __init__(self, index: Index[Store], folder: Path) -> None:
        """Keep the names of nodes in a nameless file in ``folder``."""
        self._index = index
        self._folder = folder
        self._adding = trio.CapacityLimiter(1)
        self._merging = trio.Lock()
        self._asking = trio.CapacityLimiter(2)  # a heavy question and a light one beside it
        self._turn = trio.Lock()
        self._store: Store | None = None
        self._graph: Graph | None = None
        self._extent = Extent(0, 0)
        self._mark = -1
        self._held: OrderedDict[tuple[Question, Cursor], Walk] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the graph, in bytes."""
        return self._graph.nbytes if self._graph else 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the index until cancelled, once there is a graph or enough to want one."""
        task_status.started()
        mark = -1
        while True:
            mark = await self._index.wait_past(mark)
            extent = await self._index.ask(Store.extent)
            if self._graph is not None or sum(extent) >= WARM_FROM_ROWS:
                try:
                    await self.catch_up()
                    await self.merge()
                except OSError as error:  # a full disk: whoever asks is told, nobody else need be
                    log.warning("lineage is not kept ready", extra={"reason": str(error)})
            await trio.sleep(FOLLOW_EVERY_S)

    async def page(self, question: Question, limit: int, cursor: Cursor | None = None) -> Page:
        """Return the next nodes of an answer, at most ``limit``.

        All pages of an answer are of the graph as it was at the first, and each node is in one of
        them. Raises ``NotFoundError`` for a start that nothing names, and ``PageExpiredError`` when
        the graph of the first page is gone.
        """
        held = self._held.pop((question, cursor), None) if cursor else None
        view = held.view if held else await self._view()
        turn = partial(_turn_page, view, question, limit, cursor, held)
        page, walk = await trio.to_thread.run_sync(turn, limiter=self._asking)
        if page.cursor is not None:
            self._hold((question, page.cursor), walk)
        return page

    async def paths(
        self, start: bytes, origin: bytes, *, depth: int, limit: int
    ) -> tuple[list[list[Node]], bool]:
        """Return the ways by which ``start`` came from ``origin``, the shortest first, and whether
        there may be more. Raises ``NotFoundError`` for an end that nothing names.
        """
        view = await self._view()
        question = partial(_paths, view, start, origin, depth, limit)
        return await trio.to_thread.run_sync(question, limiter=self._asking)

    async def catch_up(self) -> None:
        """Take in everything that is in the index."""
        async with self._turn:
            mark = self._index.mark
            while not await self._follow():
                pass
            self._mark = mark

    async def _follow(self) -> bool:
        """Take in what is in the index now; false if it was made anew meanwhile."""
        store, extent = await self._index.ask(lambda store: (store, store.extent()))
        if store is not self._store or self._graph is None:
            self._begin(store)
        while self._extent != extent:
            if not await self._add(store, extent):
                return False
        return True

    async def _view(self) -> View:
        if self._graph is None or self._mark != self._index.mark:
            await self.catch_up()
        assert self._graph is not None
        return self._graph.view()

    def _begin(self, store: Store) -> None:
        from aggregator.dag.graph import Graph

        self._store, self._graph, self._extent = store, Graph(self._folder), Extent(0, 0)

    async def _add(self, store: Store, end: Extent) -> bool:
        """Take in the next rows before ``end``; false if they are no longer in the index."""
        assert self._graph is not None
        first = self._extent
        last = Extent(
            min(first.records + PART.records, end.records), min(first.links + PART.links, end.links)
        )
        columns = await self._index.ask(
            lambda now: now.columns(first, last) if now is store else None
        )
        if columns is None:
            return False
        try:
            await trio.to_thread.run_sync(_take_in, self._graph, columns, limiter=self._adding)
        except Exception:
            self._graph = None  # it is of no use any more
            raise
        self._extent = last
        if last != end or self._graph.segment_count > MAX_SEGMENTS:
            await self.merge()
        return True

    async def merge(self) -> None:
        """Bring what came since the base into fewer and larger parts, where it has grown."""
        async with self._merging:
            graph = self._graph
            while graph is not None and await trio.to_thread.run_sync(_merge, graph):
                pass

    def _hold(self, key: tuple[Question, Cursor], walk: Walk) -> None:
        """Keep a walk for its next page, and the latest others as far as there is room."""
        self._held[key] = walk
        while len(self._held) > 1 and (
            len(self._held) > HELD_WALKS
            or sum(each.nbytes for each in self._held.values()) > HELD_BYTES
        ):
            self._held.popitem(last=False)


def _take_in(graph: Graph, columns: tuple[Any, Any]) -> None:
    from aggregator.dag.arrivals import arrivals_of, give_back_memory

    is_much = len(columns[1]) >= WARM_FROM_ROWS
    graph.add(arrivals_of(*columns))
    del columns
    if is_much:
        give_back_memory()


def _merge(graph: Graph) -> bool:
    from aggregator.dag.arrivals import give_back_memory

    is_merged = graph.merge()
    if is_merged and graph.nbytes > WARM_FROM_ROWS * ROW_BYTES:
        give_back_memory()
    return is_merged


def _turn_page(
    view: View, question: Question, limit: int, cursor: Cursor | None, held: Walk | None
) -> tuple[Page, Walk]:
    walk = held or _begun(view, question, cursor)
    taken = walk.take(limit)
    nodes = _nodes(walk.view, taken)
    position = (cursor.position if cursor else 0) + len(nodes)
    following = None if walk.is_done else Cursor(walk.view.layout, position)
    return Page(nodes, following, walk.is_cut), walk


def _begun(view: View, question: Question, cursor: Cursor | None) -> Walk:
    from aggregator.dag.walk import Walk

    if cursor and cursor.layout != view.layout:
        raise PageExpiredError(
            "the records that the earlier pages were made of have changed since",
            hint="ask for the first page again",
        )
    start, reach = _start(view, question), question.reach
    if reach.only_outputs and isinstance(start, list):
        is_all = reach.depth >= MADE_LINKS
        reach = replace(reach, depth=min(reach.depth, MADE_LINKS), is_all=is_all)
    walk = Walk(view, reach, start)
    walk.skip(cursor.position if cursor else 0)
    return walk


def _start(view: View, question: Question) -> int | list[int]:
    """Return where a walk starts: at a node, or one link before the records that have one of these
    labels. The outputs of a peer or a machine are those of the runs there: others' use of a model
    that it has, or of what was submitted there, does not count.
    """
    labels = view.labels
    if question.is_author:
        codes = labels.of_author(question.start)
        if not codes:
            raise NotFoundError("no record of this peer has arrived", code="unknown-peer")
    else:
        node = find(view, question.start)
        if not question.reach.only_outputs or not labels.is_block(node):
            return node
        codes = labels.of_blocks([node])
    if question.reach.only_outputs:
        return [code for code in codes if labels.table[code].name == RUN]
    return codes


def find(view: View, cid: bytes) -> int:
    """Return the node of a CID; raises ``NotFoundError`` when no record names it."""
    node = view.find(cid)
    if node is None:
        raise NotFoundError(
            f"no record names {CID(cid)}",
            code="unknown-cid",
            hint="its bundle may not have arrived yet: see the heads in `covey-aggregator status`",
        )
    return node


def _paths(
    view: View, start: bytes, origin: bytes, depth: int, limit: int
) -> tuple[list[list[Node]], bool]:
    from aggregator.dag.paths import ways

    found = ways(view, find(view, start), find(view, origin), depth=depth, limit=limit)
    paths = [_nodes(view, [(node, at) for at, node in enumerate(path)]) for path in found.paths]
    return paths, found.is_cut


def _nodes(view: View, taken: list[tuple[int, int]]) -> list[Node]:
    """Return nodes with what is known of them."""
    import numpy as np

    numbers, depths = zip(*taken, strict=True) if taken else ((), ())
    ids = np.array(numbers, np.int32)
    joined = view.names.read(ids).tobytes()
    table = view.labels.table
    codes: list[int] = view.codes[ids].tolist()
    cids = (joined[at : at + CID_BYTES] for at in range(0, len(joined), CID_BYTES))
    labels = map(table.__getitem__, codes)
    return list(map(Node._make, zip(cids, depths, labels, strict=True)))
