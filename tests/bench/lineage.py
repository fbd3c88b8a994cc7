"""Figures ``lineage_…``: who came from whom among ten million records (``many_records``).

The graph is made from an aggregator's index as its daemon makes it, then follows it for a while,
and is then asked through the methods that the API calls, with the names of all nodes in the answer.
A small closure and a first page are asked for three times and the fastest counts: the turns of
other processes are not the graph's. The baseline is DuckDB's recursive query over the same tables.

``LINEAGE_RECORDS`` makes it smaller, for those who work on it.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from aggregator.ancestry import Ancestry, Question
from aggregator.dag.reach import Reach
from aggregator.store import Store
from peer.index import Index
from peer.journal import Journal
from tests.bench.figure import Figure, figure, percentile
from tests.bench.many_records import MODELS, WORKERS, Mesh
from tests.bench.processes import rss_mb

RECORDS = int(os.environ.get("LINEAGE_RECORDS", "10000000"))
QUERIES = 2_000
SMALL = 1_000  # nodes
PAGE, LARGEST_PAGE = 100, 10_000
FAR = 1_000_000
ROUNDS = 5
TRIES = 3
LIVE_BATCHES = 20

BASELINE = "DuckDB, recursive SQL"
LINKS = """
    CREATE TEMP VIEW links AS
    SELECT record AS below, target AS above FROM edges WHERE direction <> 'generated'
    UNION ALL SELECT target, record FROM edges WHERE direction = 'generated'
    UNION ALL SELECT cid, environment FROM records WHERE environment IS NOT NULL
    UNION ALL SELECT cid, hardware FROM records WHERE hardware IS NOT NULL
"""
RECURSIVE = """
    WITH RECURSIVE walk(node) AS (
        SELECT $1::BLOB
        UNION SELECT {to} FROM walk JOIN links ON {by} = node
    )
    SELECT node FROM walk LIMIT $2
"""

UP, DOWN = Reach(True, FAR), Reach(False, FAR)
OUTPUTS = Reach(False, FAR, only_outputs=True)


def figures() -> Iterator[Figure]:
    """Write the records, make the graph, ask it, and ask the baseline."""
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        yield from trio.run(_measured, Path(folder))


async def _measured(folder: Path) -> list[Figure]:
    mesh = Mesh()
    store = Store.open(folder / "index.duckdb")
    mesh.write(store, RECORDS)
    store.close()
    _say(f"{RECORDS} records written")
    journal = Journal.open(folder / "journal")
    index = Index(journal, folder / "index.duckdb", b"a" * 32, Store.open)
    try:
        return await _asked(mesh, index, folder)
    finally:
        await index.aclose()
        journal.close()


async def _asked(mesh: Mesh, index: Index[Store], folder: Path) -> list[Figure]:
    gc.collect()
    before_mb = rss_mb(os.getpid())
    ancestry = Ancestry(index, folder)
    since = time.perf_counter()
    await ancestry.catch_up()
    warm_s = time.perf_counter() - since
    _say(f"graph made in {warm_s:.0f} s, {ancestry.nbytes / 1e6:.0f} MB of arrays")
    for _ in range(LIVE_BATCHES):
        await index.ask(lambda store: mesh.write_jobs(store, 300, 0))
        await ancestry.catch_up()
        await ancestry.merge()
    memory_mb = [await _memory_mb(index) - before_mb]
    small_ms, sizes = await _small(ancestry, mesh)
    large_s = [await _large_s(ancestry, mesh) for _ in range(3)]
    first_ms = [await _first_ms(ancestry, mesh) for _ in range(ROUNDS)]
    memory_mb.append(await _memory_mb(index) - before_mb)
    _say(f"memory once made and once asked: {memory_mb[0]:.0f} and {memory_mb[1]:.0f} MB")
    _say(f"small closures: p50 {percentile(small_ms, 0.5):.1f} ms")
    _say(f"closures of {sum(sizes) / len(sizes):.0f} nodes on average, {max(sizes)} at most")
    base = await index.ask(lambda store: _baseline(store, mesh))
    n = RECORDS
    return [
        figure(
            "lineage_p99_ms_10m", "ms", [percentile(small_ms, 0.99)], n=len(small_ms),
            baseline=BASELINE, baseline_rounds=[base[0] * 1e3],
        ),
        figure(
            "lineage_closure_500k_s", "s", large_s, n=len(large_s),
            baseline=BASELINE, baseline_rounds=[base[1]],
        ),
        figure(
            "lineage_first_page_ms", "ms", first_ms, n=ROUNDS,
            baseline=BASELINE, baseline_rounds=[base[2] * 1e3],
        ),
        figure("lineage_rss_mb", "MB", [max(memory_mb)], n=n),
        figure("lineage_warm_s", "s", [warm_s], n=n),
    ]  # fmt: skip


async def _small(ancestry: Ancestry, mesh: Mesh) -> tuple[list[float], list[int]]:
    """Return how long closures of at most ``SMALL`` nodes took, up and down by turns."""
    rng = random.Random(1)
    took_ms: list[float] = []
    sizes: list[int] = []
    starts = rng.sample(mesh.outputs, min(QUERIES, len(mesh.outputs)))
    starts[::2] = rng.sample(mesh.runs, len(starts[::2]))
    for number, start in enumerate(starts):
        question = Question(start, UP if number % 4 < 3 else DOWN)
        tries: list[float] = []
        for _ in range(TRIES):
            since = time.perf_counter()
            page = await ancestry.page(question, SMALL)
            tries.append((time.perf_counter() - since) * 1e3)
        if page.cursor is None:
            took_ms.append(min(tries))
            sizes.append(len(page.nodes))
    _say(f"{len(starts) - len(sizes)} of {len(starts)} closures are larger than {SMALL}")
    return took_ms, sizes


async def _large_s(ancestry: Ancestry, mesh: Mesh) -> float:
    """Return how long all pages of what came from the ninth model took."""
    question = Question(mesh.models[MODELS].tobytes(), DOWN)
    since = time.perf_counter()
    page = await ancestry.page(question, LARGEST_PAGE)
    count = len(page.nodes)
    while page.cursor is not None:
        page = await ancestry.page(question, LARGEST_PAGE, page.cursor)
        count += len(page.nodes)
    took_s = time.perf_counter() - since
    _say(f"{count} nodes came from the ninth model: {took_s:.2f} s")
    return took_s


async def _first_ms(ancestry: Ancestry, mesh: Mesh) -> float:
    """Return how long the slowest first page took, of hubs and of others."""
    hubs = [mesh.models[0], mesh.models[MODELS], mesh.hardwares[0], mesh.environments[-1]]
    starts = [each.tobytes() for each in hubs] + mesh.outputs[:2] + mesh.runs[:2]
    questions = [Question(start, reach) for start in starts for reach in (UP, DOWN, OUTPUTS)]
    peers = [mesh.feeds[0].tobytes(), mesh.feeds[WORKERS].tobytes()]
    questions += [
        Question(peer, reach, is_author=True) for peer in peers for reach in (DOWN, OUTPUTS)
    ]
    took_ms: list[float] = []
    for question in questions:
        tries: list[float] = []
        for _ in range(TRIES):
            since = time.perf_counter()
            await ancestry.page(question, PAGE)
            tries.append((time.perf_counter() - since) * 1e3)
        took_ms.append(min(tries))
    slowest = questions[took_ms.index(max(took_ms))]
    _say(f"slowest first page: {max(took_ms):.0f} ms, {slowest.reach}, author {slowest.is_author}")
    return max(took_ms)


async def _memory_mb(index: Index[Store]) -> float:
    """Return this process's memory without what DuckDB keeps while its file is open."""
    await index.aclose()
    gc.collect()
    return rss_mb(os.getpid())


def _baseline(store: Store, mesh: Mesh) -> tuple[float, float, float]:
    """Return seconds of a small closure, of the large one, and of a first page of a hub."""
    store._tables.run(LINKS)
    up = RECURSIVE.format(by="below", to="above")
    down = RECURSIVE.format(by="above", to="below")
    questions = [
        (up, mesh.outputs[0], FAR),
        (down, mesh.models[MODELS].tobytes(), FAR),
        (down, mesh.models[MODELS].tobytes(), PAGE),
    ]
    took_s: list[float] = []
    for sql, start, limit in questions:
        since = time.perf_counter()
        found = len(store._tables.run(sql, start, limit))
        took_s.append(time.perf_counter() - since)
        _say(f"{BASELINE}: {found} nodes in {took_s[-1]:.1f} s")
    return took_s[0], took_s[1], took_s[2]


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
