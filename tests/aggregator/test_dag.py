"""The graph in memory says what the recursive queries over the store say, whatever arrived when."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aggregator.dag import rows, walk
from aggregator.dag.arrivals import arrivals_of
from aggregator.dag.graph import Graph, View
from aggregator.dag.paths import ways
from aggregator.dag.reach import Reach
from aggregator.dag.walk import Walk
from aggregator.store import Extent, Store
from peer.rows import Batch, EdgeRow, RecordRow
from peer.tables import IN_MEMORY
from protocols.record import GENERATED, INFORMED_BY, USED
from tests.support import lineage_sql

AUTHORS = [bytes([number]) * 32 for number in range(3)]
# Digests of which several begin alike: in 36 bits, which the index of names keeps, and in 64.
DIGESTS = [bytes([n]) * 32 for n in range(4)] + [
    bytes([1]) * alike + bytes([n]) * (32 - alike) for alike in (5, 8, 31) for n in (7, 8)
]
CIDS = [bytes((1, codec, 0x12, 0x20)) + digest for codec in (0x55, 0x71) for digest in DIGESTS]

cids = st.sampled_from(CIDS)
links = st.lists(st.tuples(cids, st.sampled_from(["output", "input", "model"])), max_size=3)
statements = st.tuples(
    st.sampled_from(AUTHORS),
    links,
    links,
    st.lists(cids, max_size=2),
    st.none() | cids,
    st.none() | cids,
)
histories = st.dictionaries(cids, statements, max_size=12)
hypothetically = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def rows_of(cid: bytes, statement: Any, place: int) -> tuple[RecordRow, list[EdgeRow]]:
    author, used, generated, informed_by, environment, hardware = statement
    row = RecordRow(
        cid, author, 1, place, "job.run", 0, 0, "ok", environment, hardware, b"\xa0", place
    )
    edges = [EdgeRow(cid, USED, role, target) for target, role in used]
    edges += [EdgeRow(cid, GENERATED, role, target) for target, role in generated]
    edges += [EdgeRow(cid, INFORMED_BY, "", target) for target in informed_by]
    return row, edges


@contextmanager
def stored(history: dict[bytes, Any], again: list[int]) -> Iterator[Store]:
    """A store of these records, some of them once more at another place."""
    with closing(Store.open(IN_MEMORY)) as store:
        arrived = list(history.items())
        arrived += [arrived[number % len(arrived)] for number in again if arrived]
        every = Batch(1)
        for place, (cid, statement) in enumerate(arrived):
            row, edges = rows_of(cid, statement, place)
            every.records.append(row)
            every.edges += edges
        store.insert(every)
        yield store


def graph_of(store: Store, folder: str, cuts: list[int], merges: list[int]) -> Graph:
    """The graph of a store, taken in in parts, merged after some of them."""
    end = store.extent()
    bounds = sorted({min(cut, end.records) for cut in cuts} | {0, end.records})
    shares = [Extent(at, end.links * at // max(1, end.records)) for at in bounds]
    graph = Graph(Path(folder))
    for number, (first, last) in enumerate(pairwise(shares)):
        graph.add(arrivals_of(*store.columns(first, last)))
        while number in merges and graph.merge():
            pass
    return graph


def walked(view: View, reach: Reach, start: int | list[int]) -> tuple[dict[bytes, int], bool]:
    walk = Walk(view, reach, start)
    found = walk.take(1_000)
    assert walk.is_done
    assert [depth for _, depth in found] == sorted(depth for _, depth in found)
    assert len({node for node, _ in found}) == len(found)
    return named(view, found), walk.is_cut


def named(view: View, found: list[tuple[int, int]]) -> dict[bytes, int]:
    return {cid_of(view, node): depth for node, depth in found}


def cid_of(view: View, node: int) -> bytes:
    return view.names.read(rows.np.array([node], "i4")).tobytes()


numbers = st.lists(st.integers(0, 12), max_size=4)


@hypothetically
@given(
    histories, numbers, numbers, numbers, st.booleans(), st.sampled_from([1, 2, 3, 40]), st.data()
)
def test_what_is_around_a_node_is_what_the_recursive_query_finds(
    history: dict[bytes, Any],
    again: list[int],
    cuts: list[int],
    merges: list[int],
    has_arrays: bool,
    depth: int,
    data: st.DataObject,
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        stored(history, again) as store,
    ):
        if has_arrays:  # as for large closures
            patch.setattr(walk, "FEW", 0)
            patch.setattr(walk, "SEEN_IN_SET", 2)
            patch.setattr(walk, "PIECE", 3)
            patch.setattr(rows, "LONG_ROW", 1)
        view = graph_of(store, folder, cuts, merges).view()
        start = data.draw(cids)
        node = view.find(start)

        for leads_up in (True, False):
            expected = lineage_sql.around(store, start, leads_up=leads_up, depth=depth)
            further = lineage_sql.around(store, start, leads_up=leads_up, depth=depth + 1)
            if node is None:
                assert not further
                continue
            assert walked(view, Reach(leads_up, depth), node) == (
                expected,
                len(further) > len(expected),
            )
        if node is not None:
            outputs = lineage_sql.outputs(store)
            expected = lineage_sql.around(store, start, leads_up=False, depth=depth)
            found, _ = walked(view, Reach(False, depth, only_outputs=True), node)
            assert found == {cid: at for cid, at in expected.items() if cid in outputs}
        for author in AUTHORS:
            found, _ = walked(view, Reach(False, depth), view.labels.of_author(author))
            assert found == lineage_sql.from_author(store, author, depth=depth)


@hypothetically
@given(histories, numbers, numbers, st.sampled_from([1, 4, 8]), cids, cids)
def test_the_ways_between_two_nodes_are_those_of_the_recursive_query(
    history: dict[bytes, Any],
    cuts: list[int],
    merges: list[int],
    depth: int,
    start: bytes,
    origin: bytes,
) -> None:
    with tempfile.TemporaryDirectory() as folder, stored(history, []) as store:
        view = graph_of(store, folder, cuts, merges).view()
        ends = view.find(start), view.find(origin)
        if None in ends or start == origin:
            return

        expected = lineage_sql.paths(store, start, origin, depth=depth)
        found = ways(view, *ends, depth=depth, limit=5_000)  # pyright: ignore[reportArgumentType] (none was refused)

        paths = [[cid_of(view, node) for node in path] for path in found.paths]
        assert sorted(paths) == sorted(expected)
        assert [len(path) for path in paths] == sorted(map(len, paths))


@hypothetically
@given(histories, numbers, numbers, st.lists(st.integers(1, 5), min_size=1), cids)
def test_pages_together_are_the_whole_answer(
    history: dict[bytes, Any],
    cuts: list[int],
    merges: list[int],
    limits: list[int],
    start: bytes,
) -> None:
    with tempfile.TemporaryDirectory() as folder, stored(history, []) as store:
        view = graph_of(store, folder, cuts, merges).view()
        node = view.find(start)
        if node is None:
            return
        whole = Walk(view, Reach(False, 40), node).take(1_000)

        held = Walk(view, Reach(False, 40), node)
        pages: list[tuple[int, int]] = []
        for number in range(100):
            again = Walk(view, Reach(False, 40), node)
            again.skip(len(pages))
            limit = limits[number % len(limits)]
            page = held.take(limit)
            assert page == again.take(limit)
            pages += page
            if held.is_done:
                break

        assert pages == whole
        assert held.is_done
