from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from peer.feeds import Feeds
from peer.journal import JournalFullError
from peer.recorder import Recorder
from peer.service import running
from protocols.cid import CID
from protocols.limits import STORM_COUNT_INTERVAL_S
from protocols.record import Record
from protocols.report import Report
from tests.support.feeds import bundles_of, cid_of, effects, key, running_feeds
from tests.support.reports import a_report

OWNER = key(1)


async def _records(feeds: Feeds) -> list[Record]:
    await feeds.cut_all()
    bundles = bundles_of(feeds)
    return [Record.decode(encoded) for made in bundles for encoded in made.records]


async def test_an_activity_is_recorded_with_its_links_and_surroundings(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        recorder = Recorder(feeds, effects())
        recorder.environment = await recorder.block("environment", {"python": "3.11"})
        model, output = CID.of(b"model"), CID.of(b"output")

        cid = await recorder.activity(
            "job.run",
            used=[(model, "model")],
            generated=[(output, "output")],
            informed_by=[recorder.environment],
            start_us=5,
            duration_us=7,
            attributes={"items": 3},
        )

        environment, run = await _records(feeds)
        assert cid == cid_of(run)
        assert recorder.environment == cid_of(environment)
        assert run.environment == recorder.environment
        assert run.hardware is None
        assert (run.used, run.generated) == (((model, "model"),), ((output, "output"),))
        assert (run.start_us, run.duration_us, run.status) == (5, 7, "ok")
        assert run.attributes == {"items": 3}


async def test_equal_activities_are_different_records(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        recorder = Recorder(feeds, effects())

        assert await recorder.event("tick") != await recorder.event("tick")


async def test_a_block_is_recorded_once_per_content(tmp_path: Path) -> None:
    cids: list[CID] = []
    for _ in range(2):
        async with running_feeds(tmp_path / "journal", OWNER) as feeds:
            recorder = Recorder(feeds, effects())
            cids += [await recorder.block("hardware", {"cores": 2}) for _ in range(2)]
            other = await recorder.block("hardware", {"cores": 4})
            assert len(await _records(feeds)) == 2

    assert len({*cids, other}) == 2


async def test_a_report_is_recorded_as_an_error(tmp_path: Path) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        told = a_report()

        cid = await Recorder(feeds, effects()).report(told)

        (made,) = await _records(feeds)
        assert cid == cid_of(made)
        assert (made.kind, made.status, made.start_us) == ("error.report", "error", told.time_us)
        assert Report.from_attributes(made.attributes) == told


async def test_a_storm_of_one_error_is_five_reports_and_then_a_count_a_minute(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        recorder = Recorder(feeds, effects())
        async with running(recorder.run):
            for _ in range(100):
                await recorder.report(a_report())
            await trio.sleep(STORM_COUNT_INTERVAL_S + 1)
            for _ in range(7):
                await recorder.report(a_report())

        reports = [Report.from_attributes(made.attributes) for made in await _records(feeds)]
        assert [report.count for report in reports] == [1, 1, 1, 1, 1, 95, 7]


@pytest.mark.parametrize(
    "wrong", [{"value": object()}, {"value": float("nan")}, {"v": bytes(70_000)}]
)
async def test_a_record_that_does_not_encode_is_reduced_and_its_caller_goes_on(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        cid = await Recorder(feeds, effects()).activity("job.run", start_us=1, attributes=wrong)

        (made,) = await _records(feeds)
        assert cid == cid_of(made)
        assert made.kind == "unrecordable"
        assert made.attributes["kind"] == "'job.run'"


async def test_a_full_disk_is_told_for_records_and_swallowed_for_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        recorder = Recorder(feeds, effects())
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)

            with pytest.raises(JournalFullError):
                await recorder.event("tick")
            assert await recorder.report(a_report()) is None
        assert len(await _records(feeds)) == 0


async def test_a_report_that_cannot_tell_itself_is_lost_quietly(tmp_path: Path) -> None:
    broken = msgspec.structs.replace(a_report(), release=object())

    async with running_feeds(tmp_path / "journal", OWNER) as feeds:
        assert await Recorder(feeds, effects()).report(broken) is None
