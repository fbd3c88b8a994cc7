from __future__ import annotations

import shutil
from pathlib import Path

from node.store import Store
from peer.feeds import Feeds
from peer.journal import Journal
from peer.rows import read_batch
from peer.tables import IN_MEMORY
from protocols.journal import Entry
from tests.support.feeds import bundles_of, key, open_journal, record, running_feeds, segment_of

OWNER = key(1)


def _indexed(journal: Journal) -> list[tuple[int, int]]:
    """Index a whole journal and return the place of every row."""
    store = Store.open(IN_MEMORY, 256, OWNER.public)
    while store.mark() < journal.size:
        store.insert(read_batch(journal.scan(store.mark()), journal.size, OWNER.public))
    rows = store.newest(None, 100)
    store.close()
    return sorted((row.epoch, row.sequence) for row in rows)


def _places(feeds: Feeds) -> list[tuple[int, int]]:
    return [
        (made.header.epoch, sequence)
        for made in bundles_of(feeds)
        for sequence in range(made.header.first_sequence, made.header.next_sequence)
    ]


async def test_a_move_leaves_the_rows_that_a_bundle_covers(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_feeds(path, OWNER) as feeds:
        for first in (0, 3):
            for number in range(first, first + 3):
                await feeds.append(record(OWNER, number))
            await feeds.cut()
    _flip_first(path, Entry.HEADER)

    async with running_feeds(path, OWNER) as feeds:
        await feeds.cut_all()
        places = _places(feeds)

    journal = open_journal(path)
    assert len(places) == 6
    assert _indexed(journal) == places
    journal.close()


async def test_our_own_bundle_that_came_back_holds_no_uncut_row_in_its_place(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "journal", tmp_path / "copy"
    async with running_feeds(path, OWNER) as feeds:
        await feeds.append(record(OWNER, 1))
        shutil.copytree(path, copy)
        forgotten = await feeds.cut()
        assert forgotten is not None

    async with running_feeds(copy, OWNER) as feeds:
        await feeds.append(record(OWNER, 2))
        await feeds.add(forgotten)
        await feeds.cut_all()
        places = _places(feeds)

    journal = open_journal(copy)
    assert len(places) == 3
    assert _indexed(journal) == places
    journal.close()


def test_a_batch_accounts_for_all_that_was_read(tmp_path: Path) -> None:
    batch = read_batch([(0, 10, Entry.SALT, b"")], 25, OWNER.public)

    assert batch.mark == 25


def _flip_first(path: Path, wanted: Entry) -> None:
    journal = open_journal(path)
    offset = next(offset for offset, _, kind, _ in journal.scan() if kind is wanted)
    journal.close()
    content = bytearray(segment_of(path).read_bytes())
    content[offset + 60] ^= 1
    segment_of(path).write_bytes(content)
