from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from node.store import Store
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.service import running
from tests.support.feeds import effects, key, record

KEY = key(1)


async def kinds_after(home: Path, *more: str) -> list[str]:
    """Start a node's index in ``home``, record ``more``, and return the kinds that it then has."""
    journal = Journal.open(home / "journal")
    try:
        async with running(journal.run):
            feeds = Feeds(journal, KEY, effects())
            open_store = partial(Store.open, memory_mb=64, own=key(1).public)
            index = Index(journal, home / "index.duckdb", KEY.public, open_store)
            async with running(index.run):
                for number, kind in enumerate(more):
                    await feeds.append(record(KEY, number, kind))
                await index.catch_up()
                with trio.fail_after(30):
                    rows = await index.ask(lambda store: store.newest(None, 100))
    finally:
        journal.close()
    return sorted(row.kind for row in rows)


def flipped(content: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[9_000] ^= 0xFF
    return bytes(damaged)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeroed": lambda content: bytes(len(content)),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped": flipped,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_nodes_damaged_index_is_made_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    before = await kinds_after(tmp_path, "one", "two")
    index = tmp_path / "index.duckdb"
    index.write_bytes(damage(index.read_bytes()))

    assert await kinds_after(tmp_path) == before == ["one", "two"]


@pytest.mark.parametrize("tail", [b"\0" * 512, b"garbage" * 99], ids=["zeroed", "garbage"])
async def test_a_torn_write_ahead_log_costs_nothing(tmp_path: Path, tail: bytes) -> None:
    await kinds_after(tmp_path, "one")
    with (tmp_path / "index.duckdb.wal").open("ab") as wal:
        wal.write(tail)

    assert await kinds_after(tmp_path) == ["one"]


async def test_a_deleted_index_is_made_anew(tmp_path: Path) -> None:
    await kinds_after(tmp_path, "one")
    (tmp_path / "index.duckdb").unlink()

    assert await kinds_after(tmp_path) == ["one"]


async def test_an_index_that_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "index.duckdb.wal").mkdir()  # neither opened nor deleted by anybody

    assert await kinds_after(tmp_path, "one") == ["one"]
