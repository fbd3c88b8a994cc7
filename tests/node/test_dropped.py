from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from trio.testing import MockClock

from peer.dropped import Dropped, reserved
from peer.recorder import DROPPED_KIND, Recorder
from peer.service import running
from protocols.record import Record
from tests.support.feeds import bundles_of, effects, key, running_feeds
from tests.support.reports import a_report

SMALL_BYTES = 64


def full_disk(patch: pytest.MonkeyPatch) -> None:
    """Let nothing grow: what is overwritten in its place still goes."""
    write = os.pwrite

    def refuse(handle: int, content: bytes, offset: int) -> int:
        if len(content) > SMALL_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content, offset)

    patch.setattr(os, "pwrite", refuse)


async def test_reports_that_a_full_disk_refused_are_counted_on_it_and_told_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    path = tmp_path / "dropped"
    reserved(path)
    async with running_feeds(tmp_path / "journal", key(1)) as feeds:
        with monkeypatch.context() as patch:
            full_disk(patch)
            recorder = Recorder(feeds, effects(), dropped=Dropped(path))
            for _ in range(3):
                assert await recorder.report(a_report()) is None
            killed = Dropped(path)
        again = Recorder(feeds, effects(), dropped=Dropped(path))
        async with running(again.run):
            pass  # what is due is told when it stops, too
        async with running(again.run):
            pass
        await feeds.cut_all()
        [told] = [Record.decode(each) for made in bundles_of(feeds) for each in made.records]

    assert killed.total == killed.untold == 3
    assert (told.kind, told.attributes) == (DROPPED_KIND, {"total": 3})
    assert (Dropped(path).total, Dropped(path).untold) == (3, 0)


@pytest.mark.parametrize("content", [b"", b"garbage", b"1", b"\xff 3\n"])
def test_a_count_that_cannot_be_read_begins_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dropped"
    path.write_bytes(content)

    dropped = reserved(path)
    dropped.add(2)

    assert (Dropped(path).total, Dropped(path).untold) == (2, 2)


def test_a_count_takes_no_more_room_when_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "dropped"
    dropped = reserved(path)
    before = path.stat().st_size

    dropped.add(10**15)

    assert path.stat().st_size == before
    assert Dropped(path).total == 10**15
