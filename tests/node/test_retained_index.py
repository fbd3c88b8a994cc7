"""The index of a journal that lets go of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import reading
from node.backing import Backing
from node.config import Records
from node.errors import UnknownError
from node.retention import retention_of
from node.store import Store
from peer.journal import Journal, JournalErasedError
from peer.rows import read_batch
from peer.service import running
from peer.tables import IN_MEMORY, Rows
from protocols.keys import peer_id_of
from tests.support.feeds import (
    record,
    running_feeds,
)
from tests.support.retaining import (
    AGGREGATOR,
    OWNER,
    acknowledge,
    index_of,
    journal_of,
    nothing_needed,
    retention,
    write,
)


def indexed(journal: Journal, store: Store) -> Store:
    while store.mark() < journal.size:
        store.insert(read_batch(journal.scan(store.mark()), journal.size, OWNER.public))
    return store


@pytest.mark.usefixtures("small_segments")
async def test_an_index_made_anew_equals_the_one_that_followed(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, followed = journal_of(feeds), Store.open(IN_MEMORY, 256, OWNER.public)
        await write(feeds, range(20), size=5_000)
        indexed(journal, followed)
        await acknowledge(feeds, 15)
        gone = await feeds.append(record(OWNER, 99))
        await retention(journal, feeds).enforce()
        await write(feeds, range(20, 25))

        indexed(journal, followed)
        anew = indexed(journal, Store.open(IN_MEMORY, 256, OWNER.public))

        assert followed.newest(None, 100) == anew.newest(None, 100)
        assert followed.dropped() == anew.dropped()
        assert followed.rows() == anew.rows()
        assert isinstance(anew.rows(), Rows)
        assert [row.sequence for row in anew.newest(None, 100)][-1] == 15
        assert anew.record(gone) is not None
        for store in (followed, anew):
            store.close()


@pytest.mark.usefixtures("small_segments")
async def test_what_was_erased_is_not_lost_to_an_index_that_was_behind(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, path = journal_of(feeds), tmp_path / "index.duckdb"
        await write(feeds, range(1))
        index = index_of(journal, path)
        async with running(index.run):
            await index.catch_up()  # and knows the journal by an entry of its first segment
            known = await index.ask(lambda store: store.last())
            assert known is not None
            await write(feeds, range(1, 20), size=5_000)
            await acknowledge(feeds, 20)
            options = Records(keep_days=0, keep_mb=0)
            await retention_of(journal, feeds, index, options, nothing_needed).enforce()
            with pytest.raises(JournalErasedError):
                journal.entry(known.place)

        again = index_of(journal, path)
        async with running(again.run):
            await again.catch_up()
            assert again.lost == []
            newest = await again.ask(lambda store: store.newest(None, 100))
        assert [row.sequence for row in newest] == [19]


async def test_whoever_asks_for_a_dropped_record_is_told_who_keeps_it(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        journal, store = journal_of(feeds), Store.open(IN_MEMORY, 256, OWNER.public)
        gone = await feeds.append(record(OWNER, 0))
        await feeds.cut()
        await write(feeds, range(1, 4))
        await acknowledge(feeds, 4)
        await retention(journal, feeds).enforce()
        indexed(journal, store)

        with pytest.raises(UnknownError) as caught:
            reading.show_record(store, {"cid": str(gone)}, Backing.of(journal, feeds))
        assert "3 were dropped" in caught.value.message
        assert peer_id_of(AGGREGATOR.public) in (caught.value.hint or "")
        assert reading.list_dropped(store, {}, Backing.of(journal, feeds)) == [
            {
                "peer": peer_id_of(OWNER.public),
                "epoch": feeds.epoch,
                "next_sequence": 3,
                "aggregator": peer_id_of(AGGREGATOR.public),
            }
        ]
        store.close()
