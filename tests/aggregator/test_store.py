from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.lineage import trace
from aggregator.store import Store
from peer.rows import Batch, BundleRow, Move
from peer.tables import IndexDamagedError, discard, is_held_elsewhere
from tests.support.graph import SUBMITTER, WORKER, Graph, OneJob, entity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store.open(path)
    yield store
    store.close()


def test_a_new_store_is_empty_and_at_the_journals_start(store: Store) -> None:
    assert store.mark() == 0
    assert store.counts().records == 0


def test_rows_and_mark_survive_closing(path: Path) -> None:
    graph = Graph()
    job = OneJob(graph)
    first = Store.open(path)
    first.insert(graph.batch(mark=77))
    first.close()

    store = Store.open(path)

    assert store.mark() == 77
    assert store.records([job.run]) == graph.records([job.run])
    store.close()


def test_a_batch_that_fails_leaves_neither_rows_nor_mark(store: Store) -> None:
    graph = Graph()
    OneJob(graph)
    torn = graph.batch(mark=5)
    torn.mark = 1 << 70  # no column holds it

    with pytest.raises((IndexDamagedError, OverflowError)):
        store.insert(torn)

    assert store.mark() == 0
    assert store.counts().records == 0


def test_the_store_answers_as_plain_lists_do(store: Store) -> None:
    rng = random.Random(7)
    graph = _random_graph(rng)
    store.insert(graph.batch())

    for target in {link.target for link in graph.links}:
        start = entity_of(target)
        assert trace(store, start) == trace(graph, start)


def test_a_record_at_two_places_counts_once(store: Store) -> None:
    graph = Graph()
    job = OneJob(graph)
    moved = [row._replace(epoch=2, place=row.place + 100) for row in graph.rows]

    store.insert(graph.batch(mark=1))
    store.insert(Batch(2, moved, list(graph.links)))

    assert store.counts().records == len(graph.rows)
    assert trace(store, job.output) == trace(graph, job.output)


def test_uncut_records_that_a_new_epoch_took_over_have_their_new_place(store: Store) -> None:
    graph = Graph()
    for _ in range(4):
        graph.record("tick", WORKER)
    graph.record("tick", SUBMITTER)
    store.insert(graph.batch(mark=1))

    store.insert(Batch(2, moves=[Move(WORKER, new_epoch=9, old_epoch=1, first_sequence=3)]))

    places = [(r.feed, r.epoch, r.sequence) for r in store.records_since(0, ["tick"])]
    assert sorted(places) == sorted(
        [(SUBMITTER, 1, 0), (WORKER, 1, 0), (WORKER, 1, 1), (WORKER, 1, 2), (WORKER, 9, 0)]
    )


def test_parents_that_have_not_arrived_are_listed_and_then_not(store: Store) -> None:
    graph = Graph()
    job = OneJob(graph)
    late = [row for row in graph.rows if row.cid in (job.hardware, job.run)]
    early = graph.without(job.hardware, job.run)
    store.insert(early.batch(mark=1))

    assert [(m.cid, m.what) for m in store.missing(10)] == [(job.run, "informed_by")]
    assert store.counts().missing == 1

    store.insert(Batch(2, late, graph.edges_of([job.run])))

    assert store.missing(10) == []


def test_bundles_are_found_by_any_place_that_they_cover(store: Store) -> None:
    bundle = BundleRow(entity("header"), WORKER, 1, 10, 20, 0)
    fork = BundleRow(entity("other header"), WORKER, 1, 15, 25, 9)
    store.insert(Batch(1, bundles=[bundle, fork]))

    assert store.bundles_over(WORKER, 1, 9) == []
    assert store.bundles_over(WORKER, 1, 10) == [bundle]
    assert store.bundles_over(WORKER, 1, 19) == [bundle, fork]
    assert store.bundles_over(WORKER, 2, 15) == []


def test_records_of_a_kind_come_in_the_order_of_their_feeds(store: Store) -> None:
    graph = Graph()
    for _ in range(3):
        graph.record("error.report", WORKER)
        graph.record("error.report", SUBMITTER)
        graph.record("other", SUBMITTER)
    store.insert(graph.batch())

    found = [(row.feed, row.sequence) for row in store.records_since(0, ["error.report"])]

    assert found == sorted(found)
    assert len(found) == 6
    assert store.counts().reports == 6


@pytest.mark.parametrize("damage", ["zeroed", "truncated", "garbage", "empty", "flipped"])
def test_a_damaged_file_is_told_apart_from_an_index(path: Path, damage: str) -> None:
    graph = Graph()
    OneJob(graph)
    store = Store.open(path)
    store.insert(graph.batch())
    store.close()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[9_000] ^= 0xFF
    path.write_bytes(
        {
            "zeroed": bytes(len(content)),
            "truncated": content[: len(content) // 2],
            "garbage": random.Random(1).randbytes(len(content)),
            "empty": b"",
            "flipped": bytes(flipped),
        }[damage]
    )

    with pytest.raises(IndexDamagedError):
        Store.open(path).counts()

    discard(path)
    Store.open(path).close()


def test_a_file_of_another_version_is_not_used(path: Path, store: Store) -> None:
    store.insert(Batch(1))
    store._tables.run("UPDATE state SET schema_version = 999")
    store.close()

    with pytest.raises(IndexDamagedError, match="version"):
        Store.open(path)


def test_a_file_that_nobody_has_open_may_be_deleted(path: Path) -> None:
    assert not is_held_elsewhere(path)
    Store.open(path).close()
    assert not is_held_elsewhere(path)


def entity_of(raw: bytes):
    return type(entity(""))(raw)


def _random_graph(rng: random.Random) -> Graph:
    graph = Graph()
    entities = [entity(f"start {number}") for number in range(4)]
    records = []
    for number in range(60):
        made = entity(f"made {number}")
        used = {f"role{i}": e for i, e in enumerate(rng.sample(entities, rng.randint(0, 3)))}
        informed_by = rng.sample(records, min(len(records), rng.randint(0, 2)))
        feed = bytes([rng.randint(1, 4)]) * 32
        records.append(
            graph.record(
                "job.run", feed, used=used, generated={"output": made}, informed_by=informed_by
            )
        )
        entities.append(made)
    return graph
