"""Figures ``merge_records_s_…`` and ``wire_bytes_record_k64``: what an aggregator takes in.

Bundles of k records of fifty feeds, each delivered by two servers, go the whole way: unpacked,
verified, journalled with an fsync, and in the index, where they are counted. The rate is records
per second of CPU time, so of one core. The baseline keeps the same statements as rows of SQLite, a
commit for every k, and believes whoever sends them. Beside it stands the ``prov`` package.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import trio
import zstandard
from prov.model import ProvActivity, ProvDocument

from aggregator.store import Store
from peer.effects import system_effects
from peer.exports.prov_json import moment
from peer.feed_puller import FeedPuller
from peer.feed_server import Recent
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.service import running
from protocols.cid import CID
from protocols.excerpt import Part
from protocols.feed import SignedHeader
from protocols.keys import SigningKey
from protocols.limits import BUNDLES_PER_FRAME_BYTES
from protocols.prov import document
from protocols.record import Record
from protocols.sync import BundleMessage, pack, size_bytes
from tests.bench.figure import Figure, figure
from tests.support.home import Author

T = TypeVar("T")

ROUNDS = 3
FEEDS = 50
PROV_FEEDS = 5
BUNDLES = {64: 5, 1: 24}
"""Bundles a feed, by how many records each holds."""
EXECUTION = {
    "engine": "torch 2.13.0",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "batch_tokens": 768,
    "batches": 3,
    "max_rows": 12,
    "truncated": 0,
    "precision": "fp32",
}


def figures() -> Iterator[Figure]:
    """Measure bundles of 64 records and of one."""
    for k, count in BUNDLES.items():
        authors = [_author(number, k, count) for number in range(FEEDS)]
        frames = _frames(authors)
        ours = [_merged(frames, FEEDS * count * k) for _ in range(ROUNDS)]
        rows = [record for author in authors for record in author.records]
        base = [_sqlite(rows, k) for _ in range(ROUNDS)]
        yield figure(
            f"merge_records_s_k{k}",
            "records/CPU-s",
            ours,
            n=ROUNDS * FEEDS * count * k,
            baseline=f"SQLite, {k} a commit, unverified",
            baseline_rounds=base,
        )
        if k == 64:
            yield _beside_prov(authors[:PROV_FEEDS], ours)
            yield _wire_bytes(authors)


def _author(number: int, k: int, count: int) -> Author:
    """One node's feed, as jobs fill it: it submits and works."""
    author = Author(SigningKey.from_seed((1_000 + number).to_bytes(32, "big")))
    block, peer = CID.of(b"machine"), author.key.peer_id
    for place in range(k * count):
        at = (number * 1_000_000 + place // 3).to_bytes(16, "big")
        data = CID.of(b"in" + at, 0x55), CID.of(b"out" + at, 0x55)
        match place % 3:
            case 0:
                author.add(
                    "job.submitted",
                    generated=((data[0], "input"),),
                    environment=block,
                    hardware=block,
                    attributes={"job_id": at, "kind": "embed", "model": "all-minilm-l6-v2"},
                )
            case 1:
                author.add(
                    "job.run",
                    used=((block, "model"), (data[0], "input")),
                    generated=((data[1], "output"),),
                    environment=block,
                    hardware=block,
                    duration_us=41_000 + place,
                    attributes={
                        **EXECUTION,
                        "job_id": at,
                        "fence": 1,
                        "kind": "embed",
                        "model": "all-minilm-l6-v2",
                        "items": 3,
                        "submitter": peer,
                    },
                )
            case _:
                author.add(
                    "job.accepted",
                    used=((data[1], "output"),),
                    informed_by=(CID.of(b"submitted" + at), CID.of(b"run" + at)),
                    environment=block,
                    hardware=block,
                    duration_us=43_000 + place,
                    attributes={"job_id": at, "fence": 1, "worker": peer},
                )
        if (place + 1) % k == 0:
            author.cut()
    return author


def _frames(authors: Sequence[Author]) -> list[list[BundleMessage]]:
    """Return what a server of all feeds would send, in frames of their size."""
    packed = [pack(bundle.encode()) for author in authors for bundle in author.bundles]
    frames: list[list[BundleMessage]] = [[]]
    size = 0
    for message in packed:
        if size >= BUNDLES_PER_FRAME_BYTES:
            frames.append([])
            size = 0
        frames[-1].append(message)
        size += size_bytes(message)
    return frames


def _merged(frames: list[list[BundleMessage]], expected: int) -> float:
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        return trio.run(_merge, Path(folder), frames, expected)


async def _merge(folder: Path, frames: list[list[BundleMessage]], expected: int) -> float:
    """Return records a CPU-second; raise unless every record is in the index."""
    journal = Journal.open(folder / "journal")
    key = SigningKey.from_seed(b"a" * 32)
    feeds = Feeds(journal, key, system_effects())
    index = Index(journal, folder / "index.duckdb", key.public, Store.open)
    servers = (SigningKey.from_seed(seed * 32).peer_id for seed in (b"b", b"c"))
    one, other = (
        FeedPuller(cast("Any", None), feeds, server, Recent(), follow=False) for server in servers
    )
    async with running(journal.run, index.run):
        before = time.process_time()
        for frame in frames:
            await one._add(frame)
            await other._add(frame)
        await index.catch_up()
        cpu_s = time.process_time() - before
        found = (await index.ask(lambda store: store.counts())).records
    journal.close()
    if found != expected:
        raise RuntimeError(f"{found} of {expected} records are in the index")
    return expected / cpu_s


def _sqlite(records: Sequence[Record], k: int) -> float:
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "records.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE records (cid, author, kind, start_us, attributes)")
        connection.execute("CREATE TABLE edges (record, role, target)")
        statements = [(str(CID.of(r.encode())), _as_json(r)) for r in records]
        before = time.process_time()
        for batch in _parts(statements, k):
            connection.execute("BEGIN")
            for cid, text in batch:
                row = json.loads(text)
                values = (
                    row["author"],
                    row["kind"],
                    row["start_us"],
                    json.dumps(row["attributes"]),
                )
                connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?)", (cid, *values))
                edges = [(cid, role, target) for target, role in row["used"] + row["generated"]]
                connection.executemany("INSERT INTO edges VALUES (?, ?, ?)", edges)
            connection.execute("COMMIT")
        cpu_s = time.process_time() - before
        connection.close()
    return len(records) / cpu_s


def _beside_prov(authors: Sequence[Author], ours: Sequence[float]) -> Figure:
    """Our rate beside that of the ``prov`` package, which builds the same bundles as documents,
    each twice, and unifies them: in memory, without a signature, and with the constraints of PROV,
    which we do not check.
    """
    told: list[str] = []
    for bundle in (bundle for author in authors for bundle in author.bundles):
        proof = SignedHeader(bundle.header_bytes, bundle.signature, bundle.header)
        made = document([Part(proof, bundle.records)], moment)
        # A document's relations have names of its own; two documents' must not be one.
        told.append(json.dumps(made).replace("_:", f"_:{bundle.header.first_sequence}-"))
    count = sum(len(bundle.records) for author in authors for bundle in author.bundles)
    before = time.process_time()
    whole = ProvDocument()
    for text in (*told, *told):
        whole.update(ProvDocument.deserialize(content=text, format="json"))
    found = len(list(whole.unified().get_records(ProvActivity)))
    rate = count / (time.process_time() - before)
    if found != count:
        raise RuntimeError(f"{found} of {count} activities are in the document")
    return figure(
        "merge_records_s_k64_beside_prov",
        "records/CPU-s",
        ours,
        n=count,
        baseline="prov 3.2.3, parsed and unified in memory",
        baseline_rounds=[rate],
    )


def _wire_bytes(authors: Sequence[Author]) -> Figure:
    """Bytes a record on the wire, signature included, beside the same statements as JSON."""
    bundles = [bundle for author in authors for bundle in author.bundles]
    ours = [len(pack(bundle.encode()).compressed) / len(bundle.records) for bundle in bundles]
    compressor = zstandard.ZstdCompressor()
    base = [
        len(compressor.compress("\n".join(map(_as_json, part)).encode())) / len(part)
        for author in authors
        for part in _parts(author.records, 64)
    ]
    return figure(
        "wire_bytes_record_k64",
        "bytes",
        ours,
        n=64 * len(bundles),
        baseline="JSON lines, zstd, unsigned",
        baseline_rounds=base,
    )


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _as_json(record: Record) -> str:
    """The same statement as a tool without a binary format would keep it."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return json.dumps(_plain(fields), separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case CID():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return value
