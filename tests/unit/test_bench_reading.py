"""Benchmarks found again in an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.backing import Backing
from node.benchmarks.statement import MEASURED, RESULT, Statement
from node.errors import InputError, UnknownError
from node.reading import READERS
from node.store import Store
from peer.cids import NotACidError
from peer.rows import Batch, rows_of
from protocols.cid import CID
from protocols.journal import Entry, RecordBody
from protocols.record import Record, block
from protocols.tombstone import Redactions
from tests.support.benchmarks import statement
from tests.support.feeds import key

US = key(1)
HARDWARE = block(US.public, "hardware", {"cpu_model": "EPYC", "usable_cores": 2}, ())


class Found:
    """An index with some records of ours."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.count = 0
        self.entries: dict[int, tuple[Entry, bytes]] = {}
        self.backing = Backing(Redactions(None), self.entries.get, lambda _: [])

    def add(self, kind: str, stated: Statement | None = None, **fields: Any) -> str:
        record = Record(
            author=US.public,
            nonce=bytes([self.count]),
            kind=kind,
            start_us=1_000_000 + self.count,
            attributes=stated.attributes() if stated else {},
            **fields,
        )
        return self.keep(record)

    def keep(self, record: Record) -> str:
        encoded = record.encode()
        row, edges = rows_of(encoded, (US.public, 1, self.count), self.count)
        self.entries[self.count] = Entry.RECORD, RecordBody(1, self.count, encoded).encode()
        self.count += 1
        self.store.insert(Batch(mark=self.count, records=[row], edges=edges))
        return str(CID.of(encoded))

    def listed(self, **query: object) -> list[str]:
        return [row["cid"] for row in READERS["/bench"](self.store, query, self.backing)]


@pytest.fixture
def found() -> Iterator[Found]:
    store = Store.open(Path(":memory:"), memory_mb=64, own=US.public)
    yield Found(store)
    store.close()


def test_the_newest_come_first_whoever_asked_for_them(found: Found) -> None:
    old = found.add(MEASURED, statement(job_id=b"1" * 16))
    found.add("job.run")
    new = found.add(RESULT, statement(job_id=b"2" * 16))

    assert found.listed() == [new, old]
    assert found.listed(limit=1) == [new]


def test_a_benchmark_of_ones_own_is_told_once(found: Found) -> None:
    found.add(MEASURED, statement())
    result = found.add(RESULT, statement())

    assert found.listed() == [result]


def test_one_worker_or_one_kind_is_found_behind_many_others(found: Found) -> None:
    wanted = found.add(RESULT, statement(job_id=b"w" * 16, worker="w", kind="bench.memory"))
    for number in range(5):
        found.add(RESULT, statement(job_id=bytes([number]) * 16))

    assert found.listed(peer="w", limit=2) == [wanted]
    assert found.listed(kind="bench.memory", limit=2) == [wanted]
    assert found.listed(kind="bench.network") == []


def test_a_worker_names_its_machine_by_its_own_records(found: Found) -> None:
    hardware = found.keep(HARDWARE)
    cid = found.add(MEASURED, statement(machine={}), hardware=CID.of(HARDWARE.encode()))

    shown = READERS["/bench/{cid}"](found.store, {"cid": cid}, found.backing)

    assert shown["machine"] == {"cpu_model": "EPYC", "cores": 2}
    assert shown["hardware"] == hardware


def test_a_submitter_does_not_take_its_own_machine_for_the_workers(found: Found) -> None:
    theirs = CID.of(b"their hardware")
    stated = statement(hardware=theirs)
    cid = found.add(RESULT, stated, hardware=CID.of(HARDWARE.encode()))

    shown = READERS["/bench/{cid}"](found.store, {"cid": cid}, found.backing)

    assert (shown["hardware"], shown["machine"]) == (str(theirs), {"cores": 2})
    assert shown["environment"] is None


def test_what_is_no_benchmark_is_said_to_be_something_else(found: Found) -> None:
    run = found.add("job.run")

    with pytest.raises(InputError, match=r"is no benchmark: it is job\.run"):
        READERS["/bench/{cid}"](found.store, {"cid": run}, found.backing)
    with pytest.raises(UnknownError, match="holds no record"):
        READERS["/bench/{cid}"](found.store, {"cid": str(CID.of(b"nowhere"))}, found.backing)
    with pytest.raises(NotACidError, match="is not a CID"):
        READERS["/bench/{cid}"](found.store, {"cid": "x"}, found.backing)
