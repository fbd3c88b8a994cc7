from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from peer.journal import (
    Journal,
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalFullError,
)
from protocols.journal import HEADER_BYTES, Entry
from protocols.limits import JOURNAL_COMPANY_S
from tests.support.feeds import inline, open_journal, segment_of


async def test_an_appended_entry_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await _write(path, [b"one", b"two"])

    with _opened(path) as journal:
        found = [(kind, body) for _, _, kind, body in journal.scan()]

    assert found == [(Entry.SALT, b"one"), (Entry.SALT, b"two")]


async def test_an_append_returns_the_offset_at_which_the_entry_can_be_read(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.append(Entry.SALT, b"one")
        offset = await journal.append(Entry.SALT, b"two")

        assert journal.read(offset) == b"two"
        assert [start for start, _, _, _ in journal.scan(offset)] == [offset]
        nursery.cancel_scope.cancel()
    journal.close()


async def test_several_may_wait_for_one_entry_and_also_after_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    offsets: list[int] = []
    async with trio.open_nursery() as nursery:
        pending = journal.append_soon(Entry.SALT, b"one")

        async def wait() -> None:
            offsets.append(await pending.wait())

        async with trio.open_nursery() as waiting:
            for _ in range(3):
                waiting.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(journal.run)
        await wait()
        nursery.cancel_scope.cancel()
    journal.close()

    assert len(offsets) == 4
    assert len(set(offsets)) == 1


async def test_what_can_wait_goes_to_the_disk_with_what_cannot(tmp_path: Path) -> None:
    batches: list[object] = []

    async def counted(write: Callable[[], None]) -> None:
        batches.append(write)
        await inline(write)

    journal = Journal.open(tmp_path / "journal", offload=counted)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        journal.append_soon(Entry.SALT, b"can wait", can_wait=True)
        await trio.testing.wait_all_tasks_blocked()
        assert batches == []

        await journal.append(Entry.SALT, b"cannot")

        assert [body for *_, body in journal.scan()] == [b"can wait", b"cannot"]
        assert len(batches) == 1
        nursery.cancel_scope.cancel()
    journal.close()


async def test_an_entry_grows_until_it_is_written(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    body = [b"one"]
    journal.append_growing(Entry.SALT, lambda: b" ".join(body))
    body.append(b"two")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)

        await journal.append(Entry.SALT, b"three")

        assert [body for *_, body in journal.scan()] == [b"one two", b"three"]
        nursery.cancel_scope.cancel()
    journal.close()


async def test_what_can_wait_does_not_wait_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    journal = open_journal(tmp_path / "journal")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for body in (b"one", b"two"):
            since = trio.current_time()
            await journal.append_soon(Entry.SALT, body, can_wait=True).wait()
            assert trio.current_time() - since == pytest.approx(JOURNAL_COMPANY_S)
        nursery.cancel_scope.cancel()
    journal.close()


async def test_a_follower_is_woken_when_what_it_waits_for_is_there(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    passed: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        one = await journal.append(Entry.SALT, b"one")

        async def follow(offset: int) -> None:
            await journal.wait_past(offset)
            passed.append(offset)

        near, far = journal.size, journal.size + 50
        for offset in (far, near, one):
            nursery.start_soon(follow, offset)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [one]
        await journal.append(Entry.SALT, b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [one, near]
        await journal.append(Entry.SALT, bytes(100))
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [one, near, far]
        nursery.cancel_scope.cancel()
    journal.close()


async def test_what_was_appended_before_the_end_is_written_and_told_whenever_the_end_comes(
    tmp_path: Path,
) -> None:
    for turns in range(4):  # cancelled before, while and after the batch is taken
        journal = Journal.open(tmp_path / f"journal-{turns}")  # with its real thread
        told: list[object] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            journal.append_soon(Entry.SALT, b"last", told.append)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        assert [body for _, _, _, body in journal.scan()] == [b"last"]
        assert told == [HEADER_BYTES]
        journal.close()


async def test_writers_that_wait_together_share_one_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
    journal = Journal.open(tmp_path / "journal")  # with its real thread
    synced.clear()

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        async with trio.open_nursery() as writers:
            for number in range(200):
                writers.start_soon(journal.append, Entry.SALT, b"%d" % number)
        nursery.cancel_scope.cancel()
    journal.close()

    assert len(list(_scan(tmp_path / "journal"))) == 200
    assert len(synced) < 10


async def test_who_comes_late_or_second_to_an_entry_hears_of_it_too(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        pending = journal.append_soon(Entry.SALT, b"one")
        offsets: list[int] = []

        async def wait() -> None:
            offsets.append(await pending.wait())

        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait)
            waiting.start_soon(wait)
        await wait()

        assert offsets == [HEADER_BYTES] * 3
        nursery.cancel_scope.cancel()
    journal.close()


async def test_what_was_queued_before_the_stop_is_still_written(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        journal.append_soon(Entry.SALT, b"last words")
        nursery.cancel_scope.cancel()
    journal.close()

    assert list(_scan(tmp_path / "journal")) == [b"last words"]


async def test_a_stopped_journal_says_so(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        nursery.cancel_scope.cancel()

    with pytest.raises(JournalError) as caught:
        await journal.append(Entry.SALT, b"late")
    assert caught.value.code == "journal-closed"
    journal.close()


@pytest.mark.parametrize("tail", [b"\0" * 500, b"garbage" * 50, b"\xff"])
async def test_a_bad_tail_is_cut_and_the_next_entry_follows_the_last_good_one(
    tmp_path: Path, tail: bytes
) -> None:
    path = tmp_path / "journal"
    await _write(path, [b"one"])
    with segment_of(path).open("ab") as file:
        file.write(tail)

    journal = open_journal(path)
    cut = journal.tail_cut_bytes
    journal.close()
    await _write(path, [b"two"])

    assert cut == len(tail)
    assert list(_scan(path)) == [b"one", b"two"]


async def test_every_way_of_tearing_the_last_write_keeps_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await _write(path, [b"one", b"two"])
    whole = segment_of(path).read_bytes()
    first_end = next(end for _, end, _, _ in _entries(path))

    for length in range(first_end, len(whole)):
        segment_of(path).write_bytes(whole[:length])
        assert list(_scan(path)) == [b"one"]


async def test_an_entry_that_rots_in_the_middle_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    await _write(path, [b"one", b"two", b"three"])
    offsets = [start for start, _, _, _ in _entries(path)]
    content = bytearray(segment_of(path).read_bytes())
    content[offsets[1] + 21] ^= 1
    segment_of(path).write_bytes(content)

    with _opened(path) as journal:
        assert [body for *_, body in journal.scan()] == [b"one", b"three"]
        assert len(journal.damage) == 1
        assert journal.tail_cut_bytes == 0
        with pytest.raises(JournalDamagedError):
            journal.read(offsets[1])


async def test_a_header_torn_at_creation_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for start in (b"", b"covey", bytes(HEADER_BYTES)):
        open_journal(path).close()
        segment_of(path).write_bytes(start)
        await _write(path, [b"one"])
        assert list(_scan(path)) == [b"one"]


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"my diary, " * 50)

    with pytest.raises(JournalDamagedError):
        open_journal(path)
    assert path.read_bytes() == b"my diary, " * 50


def test_a_second_opener_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = open_journal(path)

    with pytest.raises(JournalBusyError) as caught:
        open_journal(path)
    first.close()

    assert caught.value.code == "journal-busy"
    open_journal(path).close()


async def test_a_full_disk_refuses_keeps_what_was_and_takes_more_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    disk = _Disk(monkeypatch)
    journal = open_journal(path)

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.append(Entry.SALT, b"one")
        disk.room = 10
        with pytest.raises(JournalFullError) as caught:
            await journal.append(Entry.SALT, b"two")
        size_when_full = segment_of(path).stat().st_size
        kept = [body for *_, body in journal.scan()]
        disk.room = None
        await journal.append(Entry.SALT, b"three")
        nursery.cancel_scope.cancel()
    journal.close()

    assert caught.value.code == "disk-full"
    assert caught.value.hint is not None
    assert kept == [b"one"]
    assert size_when_full == next(iter(_entries(path)))[1]
    assert list(_scan(path)) == [b"one", b"three"]


async def test_everything_queued_behind_a_refused_entry_is_refused_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[object] = []
    disk = _Disk(monkeypatch)
    journal = open_journal(tmp_path / "journal")

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        disk.room = 10
        for number in range(3):
            journal.append_soon(Entry.SALT, b"%d" % number, outcomes.append)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    journal.close()

    assert [type(outcome) for outcome in outcomes] == [JournalFullError] * 3


async def test_a_disk_that_fails_ends_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = open_journal(tmp_path / "journal")
    monkeypatch.setattr(os, "fdatasync", fail)

    with pytest.RaisesGroup(JournalError):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            with pytest.raises(JournalError) as caught:
                await journal.append(Entry.SALT, b"one")
            await trio.sleep_forever()
    journal.close()

    assert caught.value.code == "disk-failed"


async def test_a_writer_with_too_much_behind_it_waits_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.backlog.MAX_JOURNAL_BACKLOG_BYTES", 100)
    journal = open_journal(tmp_path / "journal")
    journal.append_soon(Entry.SALT, bytes(200))

    with pytest.raises(JournalFullError) as caught:
        journal.append_soon(Entry.SALT, b"more")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.append, Entry.SALT, b"patient")
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(journal.run)
        await journal.wait_past(journal.size + 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    journal.close()

    assert caught.value.code == "journal-behind"
    assert list(_scan(tmp_path / "journal")) == [bytes(200), b"patient"]


async def test_followers_wake_when_the_durable_end_moves(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal")
    seen: list[bytes] = []

    async def follow() -> None:
        place = 0
        while len(seen) < 2:
            for _, end, _, body in journal.scan(place):
                seen.append(body)
                place = end
            if len(seen) < 2:
                await journal.wait_past(max(place, journal.size))

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        async with trio.open_nursery() as followers:
            followers.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            await journal.append(Entry.SALT, b"one")
            await journal.append(Entry.SALT, b"two")
        nursery.cancel_scope.cancel()
    journal.close()

    assert seen == [b"one", b"two"]


class _Disk:
    """A disk with room for so many bytes more; none means plenty."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, content: bytes, offset: int) -> int:
        if self.room is None:
            return self._pwrite(fd, content, offset)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._pwrite(fd, bytes(content)[: self.room], offset)
        self.room -= written
        return written


class _opened:  # noqa: N801 - reads like the function that it stands for
    def __init__(self, path: Path) -> None:
        self._journal = Journal.open(path, offload=inline)

    def __enter__(self) -> Journal:
        return self._journal

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def _entries(path: Path) -> list[tuple[int, int, Entry, bytes]]:
    with _opened(path) as journal:
        return list(journal.scan())


def _scan(path: Path) -> list[bytes]:
    return [body for *_, body in _entries(path)]


async def _write(path: Path, contents: list[bytes]) -> None:
    journal = open_journal(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for content in contents:
            await journal.append(Entry.SALT, content)
        nursery.cancel_scope.cancel()
    journal.close()
