"""Millions of records, written as columns into the tables of an aggregator's index: what a mesh of
200 workers and 1,000 submitters leaves behind.

Each job has three records (submitted, run, accepted) with seven links, and an environment and a
hardware record each side. Jobs form chains of up to thirty, the output of one being the next one's
input. Eight models are used by nearly all; a ninth by ``FEW_JOBS`` jobs at the ends of chains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.store import Store

CHAIN = 30
JOBS_AT_ONCE = CHAIN * 3_000
WORKERS, SUBMITTERS, MODELS = 200, 1_000, 8
FEW_JOBS = 166_667
"""Jobs of the ninth model: with outputs and acceptances half a million nodes came from it."""

Cids = NDArray[np.uint8]


@dataclass
class Mesh:
    """Who and what there is, and some of what was made."""

    seed: int = 7
    outputs: list[bytes] = field(default_factory=list)
    runs: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self.models = self.cids(MODELS + 1, 0x55)
        self.feeds = self._rng.integers(0, 256, (WORKERS + SUBMITTERS, 32), dtype=np.uint8)
        self.environments = self.cids(WORKERS + SUBMITTERS, 0x71)
        self.hardwares = self.cids(WORKERS + SUBMITTERS, 0x71)

    def cids(self, count: int, codec: int) -> Cids:
        """New CIDs."""
        made = np.empty((count, 36), np.uint8)
        made[:, :4] = (1, codec, 0x12, 0x20)
        made[:, 4:] = self._rng.integers(0, 256, (count, 32), dtype=np.uint8)
        return made

    def write(self, store: Store, records: int) -> None:
        """Add about so many records."""
        self._write_blocks(store)
        jobs = few = 0
        while 3 * jobs < records:
            count = min(JOBS_AT_ONCE, -(-(records - 3 * jobs) // (3 * CHAIN)) * CHAIN)
            share = min(FEW_JOBS - few, count // 18, records // 12 - few)
            self.write_jobs(store, count, max(0, share))
            jobs, few = jobs + count, few + max(0, share)

    def _write_blocks(self, store: Store) -> None:
        peers = np.arange(len(self.feeds))
        blocks = np.concatenate([self.environments, self.hardwares])
        kinds = np.repeat([0, 1], len(peers))
        _insert_records(
            store, blocks, ["environment", "hardware"], kinds, self._by(peers, 2, False)
        )
        workers = np.arange(WORKERS)
        registered = self.cids(WORKERS, 0x71)
        _insert_records(
            store, registered, ["model.registered"], np.zeros(WORKERS, int), self._by(workers, 1)
        )
        models = self.models[workers % len(self.models)]
        _insert_links(store, registered, [("generated", "model")], np.zeros(WORKERS, int), models)

    def write_jobs(self, store: Store, count: int, of_ninth: int) -> None:
        """Add ``count`` jobs, a multiple of ``CHAIN``; the last of so many chains use the ninth
        model.
        """
        stages, width = CHAIN, count // CHAIN
        outputs, inputs = self.cids(count, 0x55), self.cids(count, 0x55)
        length = self._rng.integers(1, CHAIN + 1, width)
        goes_on = np.arange(stages)[:, None] % length != 0
        follows = np.flatnonzero(goes_on.reshape(-1))  # their predecessor is ``width`` jobs before
        inputs[follows] = outputs[follows - width]
        models = self._rng.integers(0, MODELS, count)
        models[count - of_ninth :] = MODELS
        records = self.cids(3 * count, 0x71)
        submitted, run, accepted = records[0::3], records[1::3], records[2::3]
        worker = self._rng.integers(0, WORKERS, count)
        submitter = WORKERS + self._rng.integers(0, SUBMITTERS, count)
        peers = np.stack([submitter, worker, submitter], axis=1).reshape(-1)
        _insert_records(
            store,
            records,
            ["job.submitted", "job.run", "job.accepted"],
            np.tile([0, 1, 2], count),
            self._by(peers, 1),
        )
        sources = np.stack([submitted, run, run, run, accepted, accepted, accepted], axis=1)
        targets = np.stack(
            [inputs, self.models[models], inputs, outputs, outputs, submitted, run], axis=1
        )
        kinds = [
            ("generated", "input"),
            ("used", "model"),
            ("used", "input"),
            ("generated", "output"),
            ("used", "output"),
            ("informed_by", ""),
        ]
        at = np.tile([0, 1, 2, 3, 4, 5, 5], count)
        _insert_links(store, sources.reshape(-1, 36), kinds, at, targets.reshape(-1, 36))
        self.outputs += [outputs[i].tobytes() for i in range(0, count, 97)]
        self.runs += [run[i].tobytes() for i in range(0, count, 97)]

    def _by(self, peers: NDArray[Any], times: int, has_blocks: bool = True) -> list[Any]:
        at = np.tile(peers, times)
        blocks = [_chosen(each, at) for each in (self.environments, self.hardwares)]
        return [_chosen(self.feeds, at), *(blocks if has_blocks else [pa.nulls(len(at))] * 2)]


def _insert_records(
    store: Store, cids: Cids, kinds: list[str], kind_at: NDArray[Any], by: list[Any]
) -> None:
    count = len(cids)
    numbers = pa.array(np.arange(count))
    unsigned = numbers.cast(pa.uint64())
    kind = pa.DictionaryArray.from_arrays(pa.array(kind_at.astype("i4")), pa.array(kinds))
    feed, environment, hardware = by
    status, attributes = pa.array(["ok"] * count), pa.array([b"\xa0"] * count, pa.binary())
    columns = [
        _binary(cids), feed, unsigned, unsigned, kind, numbers, numbers, status,
        environment, hardware, attributes, numbers,
    ]  # fmt: skip
    _insert(store, "records", columns)


def _insert_links(
    store: Store,
    sources: Cids,
    kinds: list[tuple[str, str]],
    kind_at: NDArray[Any],
    targets: Cids,
) -> None:
    at = pa.array(kind_at.astype("i4"))
    directions, roles = (
        pa.DictionaryArray.from_arrays(at, pa.array(list(each)))
        for each in zip(*kinds, strict=True)
    )
    _insert(store, "edges", [_binary(sources), directions, roles, _binary(targets)])


def _insert(store: Store, table: str, columns: list[Any]) -> None:
    connection = store._tables._connection
    connection.register("made", pa.table(columns, [str(n) for n in range(len(columns))]))
    connection.execute(f"INSERT INTO {table} SELECT * FROM made")
    connection.unregister("made")


def _binary(values: NDArray[np.uint8]) -> Any:
    count, size = values.shape
    offsets = np.arange(count + 1, dtype=np.int32) * size
    data = pa.py_buffer(np.ascontiguousarray(values).reshape(-1))
    return pa.BinaryArray.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), data])


def _chosen(values: NDArray[np.uint8], at: NDArray[Any]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(at.astype("i4")), _binary(values))
