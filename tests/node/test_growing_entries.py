"""Entries that others join until they are written, and the salts that lie in them."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from node.salts import Salts
from peer.journal import Journal, JournalFullError
from protocols.journal import Entry
from tests.support.feeds import open_journal
from tests.support.members import effects_of


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class SlowDisk:
    """A disk on which writes wait while it is full, until they fail and it has room again."""

    def __init__(self) -> None:
        self.has_room = trio.Event()
        self.is_full = False

    async def write(self, function: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_full:
            await self.has_room.wait()
            self.is_full = False
            raise OSError(errno.ENOSPC, "No space left on device")
        function()


async def test_salts_are_kept_again_once_a_full_disk_has_room(tmp_path: Path) -> None:
    disk = SlowDisk()
    journal = Journal.open(tmp_path / "journal", offload=disk.write)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        salts = Salts(journal, effects_of(1))
        await journal.append(Entry.ACK, b"")
        disk.is_full = True
        refused = journal.append_soon(Entry.ACK, b"refused")
        await trio.testing.wait_all_tasks_blocked()
        salts.keep(digest(b"behind it"), b"1" * 16)
        disk.has_room.set()
        with pytest.raises(JournalFullError):
            await refused.wait()
        salts.keep(digest(b"later"), b"2" * 16)
        await journal.append(Entry.ACK, b"")
        nursery.cancel_scope.cancel()
    journal.close()

    again = open_journal(tmp_path / "journal")
    kept = Salts(again, effects_of(2)).of_content(digest(b"later"))
    again.close()

    assert kept == b"2" * 16


async def test_what_joined_a_growing_entry_counts_as_waiting_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.backlog.MAX_JOURNAL_BACKLOG_BYTES", 100)
    journal = open_journal(tmp_path / "journal")
    salts = Salts(journal, effects_of(1))
    refused: list[bytes] = []
    for number in range(4):
        name = digest(b"%d" % number)
        try:
            salts.keep(name, bytes(16))
        except JournalFullError:
            refused.append(name)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.append(Entry.ACK, b"")
        for name in refused:
            salts.keep(name, bytes(16))
            await journal.append(Entry.ACK, b"")
        nursery.cancel_scope.cancel()
    journal.close()

    again = open_journal(tmp_path / "journal")
    found = Salts(again, effects_of(2))
    again.close()

    assert len(refused) == 3
    assert [found.of_content(digest(b"%d" % number)) for number in range(4)] == [bytes(16)] * 4
