"""When an index follows its journal: at once, or only when it must."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from peer.index import Index
from peer.journal import Journal
from peer.rows import Batch, LastEntry
from peer.service import running
from peer.tables import Lost
from protocols.cid import CID
from protocols.journal import Entry, RecordBody
from tests.support.feeds import key, open_journal, record

OWNER = key(1)
LAG_BYTES = 2_000


@dataclass
class FakeStore:
    """Keeps the names of records in memory."""

    batches: list[Batch] = field(default_factory=list)

    def mark(self) -> int:
        return self.batches[-1].mark if self.batches else 0

    def last(self) -> LastEntry | None:
        return self.batches[-1].last if self.batches else None

    def lost(self, start: int, end: int) -> list[Lost]:
        return []

    def named_in(self, lost: Lost, limit: int) -> list[bytes]:
        return []

    def insert(self, batch: Batch) -> None:
        self.batches.append(batch)

    def erase(self, cids: Iterable[bytes], before: int) -> None:
        pass

    def forget(self, start: int, end: int) -> None:
        pass

    def copy_to(self, path: Path) -> None:
        path.touch()

    def close(self) -> None:
        pass

    def cids(self) -> list[bytes]:
        return [row.cid for batch in self.batches for row in batch.records]


@asynccontextmanager
async def indexed(
    path: Path, lag_bytes_max: int
) -> AsyncGenerator[tuple[Journal, Index[FakeStore], FakeStore, list[Path]]]:
    """A running journal and its index, the store, and how often that was opened."""
    journal, store = open_journal(path / "journal"), FakeStore()
    opened: list[Path] = []

    def open_store(at: Path) -> FakeStore:
        opened.append(at)
        return store

    index = Index(journal, path / "index", OWNER.public, open_store, lag_bytes_max=lag_bytes_max)
    async with running(journal.run, index.run):
        yield journal, index, store, opened
    journal.close()


async def append(journal: Journal, number: int) -> CID:
    encoded = record(OWNER, number).encode()
    await journal.append(Entry.RECORD, RecordBody(1, number, encoded).encode())
    return CID.of(encoded)


async def test_an_index_follows_at_once(tmp_path: Path):
    async with indexed(tmp_path, 0) as (journal, index, store, _):
        mark = index.mark
        cid = await append(journal, 0)

        await index.wait_past(mark)

        assert store.cids() == [cid]


async def test_records_that_come_together_share_a_transaction(tmp_path: Path, autojump_clock):
    async with indexed(tmp_path, 0) as (journal, index, store, _):
        mark = index.mark
        cids = [await append(journal, number) for number in range(10)]
        await index.wait_past(mark)

        assert store.cids() == cids
        assert len([batch for batch in store.batches if batch.records]) == 1


async def test_an_index_that_may_lag_opens_nothing_until_somebody_reads(
    tmp_path: Path, autojump_clock
):
    async with indexed(tmp_path, LAG_BYTES) as (journal, index, _, opened):
        cid = await append(journal, 0)
        await trio.sleep(60)
        assert not opened

        await index.catch_up()

        assert await index.ask(FakeStore.cids) == [cid]
        assert len(opened) == 1


async def test_an_index_never_lags_further_than_it_may(tmp_path: Path):
    async with indexed(tmp_path, LAG_BYTES) as (journal, index, store, _):
        number = 0
        while journal.size < 2 * LAG_BYTES:
            await append(journal, number)
            number += 1

        await index.wait_past(0)

        assert len(store.cids()) == number
