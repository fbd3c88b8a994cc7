from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from peer import segments
from peer.journal import (
    Journal,
    JournalBusyError,
    JournalDamagedError,
    JournalErasedError,
    JournalError,
    JournalFullError,
)
from protocols.errors import LocalProtocolError
from protocols.journal import HEADER_BYTES, Damage, Entry, Scanned
from tests.support.feeds import inline, open_journal, segment_of

BIG = 1_000


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", BIG)


@asynccontextmanager
async def running(path: Path) -> AsyncGenerator[Journal]:
    journal = open_journal(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            yield journal
            nursery.cancel_scope.cancel()
    finally:
        journal.close()


async def fill(journal: Journal, count: int = 12, size: int = 300) -> dict[int, bytes]:
    """Append entries over several segments; return their bodies by offset."""
    made = (bytes([number]) * size for number in range(count))
    return {await journal.append(Entry.SALT, body): body for body in made}


def found(journal: Journal, start: int = 0) -> dict[int, bytes]:
    return {offset: body for offset, _, _, body in journal.scan(start)}


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.segment"))


def damage(journal: Journal) -> list[Damage]:
    return [part for part in journal.inspect(journal.size) if isinstance(part, Damage)]


async def test_a_full_segment_is_left_alone_and_offsets_go_on_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)

        assert found(journal) == made
        assert {offset: journal.read(offset) for offset in made} == made
        assert journal.segments == len(files(path)) > 2
    starts = [int(file.stem) for file in files(path)]
    ends = [start + file.stat().st_size for start, file in zip(starts, files(path), strict=True)]
    assert starts[1:] == ends[:-1]

    async with running(path) as journal:
        assert found(journal) == made
        assert (journal.damage, journal.tail_cut_bytes, damage(journal)) == ([], 0, [])
        more = await fill(journal, 2)
        assert found(journal) == made | more
        assert found(journal, max(made) + 1) == more


async def test_a_follower_goes_on_over_the_end_of_a_segment(tmp_path: Path) -> None:
    seen: dict[int, bytes] = {}

    async def follow(journal: Journal, count: int) -> None:
        place = 0
        while len(seen) < count:
            for offset, end, _, body in journal.scan(place):
                seen[offset] = body
                place = end
            if len(seen) < count:
                await journal.wait_past(max(place, journal.size))

    async with running(tmp_path / "journal") as journal, trio.open_nursery() as nursery:
        nursery.start_soon(follow, journal, 12)
        made = await fill(journal)

    assert seen == made


async def test_the_one_file_of_an_earlier_version_becomes_the_first_segment(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal, 3)
    old = files(path)[0].read_bytes()
    shutil.rmtree(path)
    path.write_bytes(old)

    async with running(path) as journal:
        assert found(journal) == made
        assert journal.tail_cut_bytes == 0
        await fill(journal, 6)
    assert files(path)[0].read_bytes().startswith(old)


@pytest.mark.parametrize("step", ["mkdir", "rename", "rename again"])
async def test_taking_over_the_one_file_may_be_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal, 2)
    old = files(path)[0].read_bytes()
    shutil.rmtree(path)
    path.write_bytes(old)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, step.removesuffix(" again"), after=" " in step)
        with pytest.raises(OSError, match="killed"):
            open_journal(path)
    assert calls

    async with running(path) as journal:
        assert found(journal) == made


async def test_a_one_file_journal_that_another_process_has_is_not_taken_over(
    tmp_path: Path,
) -> None:
    import fcntl

    path = tmp_path / "journal"
    path.write_bytes(b"")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JournalBusyError):
            open_journal(path)
    assert path.is_file()


async def test_a_missing_segment_is_damage_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
    for gone in files(path)[:-1]:
        lost = Damage(int(gone.stem), int(gone.stem) + gone.stat().st_size)
        kept = gone.read_bytes()
        gone.unlink()

        async with running(path) as journal:
            assert journal.damage == damage(journal) == [lost]
            assert found(journal) == {
                offset: body
                for offset, body in made.items()
                if not lost.offset <= offset < lost.end_offset
            }
            with pytest.raises(JournalDamagedError):
                journal.read(lost.offset + HEADER_BYTES)
        gone.write_bytes(kept)


async def test_only_the_last_segment_has_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
    first, last = files(path)[0], files(path)[-1]
    os.truncate(first, first.stat().st_size - 1)
    os.truncate(last, last.stat().st_size - 1)

    async with running(path) as journal:
        assert len(journal.damage) == 1
        assert journal.damage[0].end_offset == int(files(path)[1].stem)
        assert journal.tail_cut_bytes == 319
        left = found(journal)
    assert len(left) == len(made) - 2
    assert left.items() <= made.items()


async def test_a_torn_tail_on_a_full_disk_is_read_around_and_cut_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path, touch = tmp_path / "journal", Path.touch
    async with running(path) as journal:
        made = await fill(journal, 2)
    torn = files(path)[-1]
    with torn.open("ab") as file:
        file.write(b"torn")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        open_journal(path).close()
        async with running(path) as journal:
            assert (journal.tail_cut_bytes, journal.has_lost_tail) == (4, True)
            assert found(journal) == made
            with pytest.raises(JournalFullError):
                await journal.append(Entry.SALT, b"refused")
            assert torn.read_bytes().endswith(b"torn"), "nobody could be told of it yet"
            patch.setattr(Path, "touch", touch)
            made[await journal.append(Entry.SALT, b"x")] = b"x"
    with closing(open_journal(path)) as journal:
        assert (journal.tail_cut_bytes, journal.has_lost_tail) == (0, True)
        assert found(journal) == made
        journal.settle_tail()
        assert not journal.has_lost_tail


async def test_a_segment_torn_at_its_creation_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal, 4)
        end = journal.size
    for content in (b"", b"covey-", bytes(HEADER_BYTES)):
        (path / f"{end:016}.segment").write_bytes(content)
        async with running(path) as journal:
            assert found(journal) == made
            assert (journal.size, journal.damage) == (end + HEADER_BYTES, [])
            assert damage(journal) == []


async def test_a_damaged_header_costs_nothing_while_another_segment_is_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
    for file in files(path)[:-1]:
        file.write_bytes(bytes(HEADER_BYTES) + file.read_bytes()[HEADER_BYTES:])

    async with running(path) as journal:
        assert found(journal) == made


async def test_a_disk_without_room_for_a_segment_refuses_and_takes_more_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal, 3)
        with monkeypatch.context() as patch:
            fail_at(patch, "open", error=errno.ENOSPC)
            with pytest.raises(JournalFullError):
                await journal.append(Entry.SALT, b"refused")
        before = files(path)
        made |= await fill(journal, 3)
        assert found(journal) == made
    assert len(files(path)) == len(before) + 1


# Rewriting


async def test_entries_are_erased_and_shortened_and_all_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
        offsets = list(made)
        changes = {offsets[0]: None, offsets[1]: b"short", offsets[6]: None, offsets[-1]: b"last"}

        await journal.rewrite(changes)

        expected = {at: body for at, body in (made | changes).items() if body is not None}
        assert found(journal) == expected
        assert {at: journal.read(at) for at in expected} == expected
        with pytest.raises(JournalErasedError):
            journal.read(offsets[0])
        later = await fill(journal, 1)
    for _ in range(2):
        async with running(path) as journal:
            assert found(journal) == expected | later
            assert (journal.damage, journal.tail_cut_bytes, damage(journal)) == ([], 0, [])
            await journal.rewrite({offsets[0]: None, offsets[6]: None})  # again: no harm


async def test_what_is_erased_gives_its_room_on_the_disk_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 20)
    async with running(tmp_path / "journal") as journal:
        made = await fill(journal, 40, 50_000)
        before, size = journal.disk_bytes, journal.size

        await journal.rewrite(dict.fromkeys(list(made)[:39]))

        assert journal.disk_bytes < before / 10
        assert journal.size >= size
        assert journal.read(max(made)) == made[max(made)]


async def test_readers_and_the_writer_go_on_while_a_segment_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path / "journal") as journal:
        made = await fill(journal)
        reader = journal.scan()
        seen = [next(reader)[3] for _ in range(2)]
        offsets = list(made)
        assert journal.read(offsets[0]) == made[offsets[0]]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.rewrite, dict.fromkeys(offsets[:4]))
            added = {await journal.append(Entry.SALT, b"meanwhile"): b"meanwhile"}

        seen += [body for *_, body in reader]
        bodies = list(made.values())
        assert seen == bodies[:3] + bodies[4:], "the segment that it was in, as it was"
        assert found(journal) == {at: made[at] for at in offsets[4:]} | added


@pytest.mark.parametrize("body", [None, b"x"])
async def test_a_change_at_no_entry_is_refused_and_nothing_is_left_of_it(
    tmp_path: Path, body: bytes | None
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
        with pytest.raises(LocalProtocolError):
            await journal.rewrite({min(made): None, min(made) + 1: body})
        assert found(journal) == made
    assert list(path.glob("*.replacing")) == []


STEPS = ["write", "ftruncate", "fsync", "rename", "fsync folder"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_of_a_rewrite_leaves_all_old_or_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path, crashed = tmp_path / "journal", tmp_path / "crashed"
    async with running(path) as journal:
        made = await fill(journal)
        offsets = list(made)
        changes: dict[int, bytes | None] = {offsets[0]: None, offsets[1]: b"short"}
        with monkeypatch.context() as patch:
            # What is on the disk at that step is what a process killed there leaves behind.
            calls = before(patch, step, lambda: shutil.copytree(path, crashed))
            await journal.rewrite(changes)
        assert calls
    left_over = list(crashed.glob("*.replacing"))
    assert bool(left_over) == (step != "fsync folder")

    async with running(crashed) as journal:
        assert list(crashed.glob("*.replacing")) == []
        new = {at: body for at, body in (made | changes).items() if body is not None}
        assert found(journal) == (new if step == "fsync folder" else made)
        assert (journal.damage, journal.tail_cut_bytes) == ([], 0)
        await journal.rewrite(changes)
        assert found(journal) == new


@pytest.mark.parametrize("step", STEPS[:-1])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_rewrite_that_the_disk_refuses_changes_nothing_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int
) -> None:
    path = tmp_path / "journal"
    async with running(path) as journal:
        made = await fill(journal)
        with monkeypatch.context() as patch:
            fail_at(patch, step, error=error)
            with pytest.raises(JournalError) as caught:
                await journal.rewrite({min(made): None})
        assert (caught.value.code == "disk-full") == (error == errno.ENOSPC)
        assert found(journal) == made
        await journal.rewrite({min(made): None})
        assert await journal.append(Entry.SALT, b"goes on") in found(journal)
        assert min(made) not in found(journal)
    assert list(path.glob("*.replacing")) == []


async def test_inspect_shows_no_fillers(tmp_path: Path) -> None:
    async with running(tmp_path / "journal") as journal:
        made = await fill(journal, 3)
        await journal.rewrite({min(made): None})

        kinds = [p.kind for p in journal.inspect(journal.size) if isinstance(p, Scanned)]
        assert kinds == [Entry.SALT, Entry.SALT]


def before(patch: pytest.MonkeyPatch, step: str, do: Callable[[], object]) -> list[str]:
    """Call ``do`` before the first call of that step; return the calls of it as they come."""
    calls: list[str] = []
    name = {"write": "pwrite", "fsync folder": "fsync"}.get(step, step)
    where = Path if name in ("rename", "mkdir") else os
    real = getattr(where, name)

    def called(*args: object, **kwargs: object) -> object:
        is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
        if name != "fsync" or is_folder == (step == "fsync folder"):
            calls.append(step)
            if len(calls) == 1:
                do()
        return real(*args, **kwargs)

    patch.setattr(where, name, called)
    return calls


def fail_at(
    patch: pytest.MonkeyPatch, step: str, error: int = 0, *, after: bool = False
) -> list[str]:
    """Let every call of that step fail, but for the first if ``after``."""
    calls: list[str] = []
    name = {"write": "pwrite", "fsync folder": "fsync"}.get(step, step)
    where = Path if name in ("rename", "mkdir") else os
    real = getattr(where, name)

    def fail(*args: object, **kwargs: object) -> object:
        calls.append(step)
        if name == "open" and not int(args[1]) & os.O_CREAT:  # type: ignore[call-overload]
            return real(*args, **kwargs)
        if after and len(calls) == 1:
            return real(*args, **kwargs)
        raise OSError(error, "killed")

    patch.setattr(where, name, fail)
    return calls


def test_a_journal_in_use_is_open_for_nobody_else(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal", offload=inline)

    with pytest.raises(JournalBusyError):
        open_journal(tmp_path / "journal")
    journal.close()
    assert segment_of(tmp_path / "journal").name == f"{0:016}.segment"
