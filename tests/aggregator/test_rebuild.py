from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from aggregator.answers import Answers
from aggregator.core import opened
from aggregator.surroundings import Surroundings
from peer.home import Home
from protocols.feed import Bundle
from protocols.record import Record
from tests.support.feeds import segment_of
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import key_of
from tests.support.reports import START_US, a_report


def feeds() -> tuple[SignedJob, list[Bundle]]:
    """A job and three reports of two peers, in bundles."""
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    for number in range(2):
        worker.report(a_report(time_us=START_US + number))
    submitter.report(a_report(time_us=START_US + 9))
    return job, [worker.cut(), submitter.cut()]


async def everything(answers: Answers, job: SignedJob) -> dict[str, Any]:
    """All that an aggregator can say, but for how big its files are."""
    status = await answers.status(Surroundings())
    del status["journal_bytes"]
    return {
        "status": status,
        "groups": answers.groups(),
        "group": [await answers.group(group["id"]) for group in answers.groups()],
        "issues": answers.issues(),
        "lineage": await answers.lineage(str(job.output)),
        "missing": await answers.missing(),
    }


async def filled(tmp_path: Path) -> tuple[Home, Any, Any, SignedJob, dict[str, Any]]:
    home, identity, effects = aggregator_home(tmp_path)
    job, bundles = feeds()
    async with opened(home, identity, effects) as answers:
        await answers.feeds.add_all(bundles)
        await answers.feeds.append(_own_record(answers))
        await answers.feeds.cut_all()
        await answers.index.catch_up()
        await answers.intake.take_in()
        said = await everything(answers, job)
    return home, identity, effects, job, said


def _own_record(answers: Answers) -> Record:
    public = answers.feeds.key.public
    return Record(author=public, nonce=b"own", kind="tick", start_us=0)


async def test_an_index_that_was_deleted_is_rebuilt_with_the_same_answers(tmp_path: Path) -> None:
    home, identity, effects, job, before = await filled(tmp_path)
    home.index.unlink()

    async with opened(home, identity, effects) as answers:
        assert await everything(answers, job) == before

    assert before["status"]["records"] == 10
    assert before["lineage"]["verified"]
    assert before["groups"][0]["count"] == 3


@pytest.mark.parametrize("damage", [b"", b"garbage" * 5_000, None])
async def test_an_index_that_was_damaged_is_rebuilt_with_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    home, identity, effects, job, before = await filled(tmp_path)
    content = bytearray(home.index.read_bytes())
    content[9_000] ^= 0xFF
    home.index.write_bytes(bytes(content) if damage is None else damage)

    with caplog.at_level(logging.WARNING):
        async with opened(home, identity, effects) as answers:
            assert await everything(answers, job) == before

    assert [r.message for r in caplog.records] == ["index rebuilt from the journal"]


async def test_rebuilding_by_command_changes_no_answer(tmp_path: Path) -> None:
    home, identity, effects, job, before = await filled(tmp_path)

    async with opened(home, identity, effects) as answers:
        summary = await answers.rebuild()

        assert await everything(answers, job) == before
        assert summary["records"] == before["status"]["records"]
        assert summary["state_root"] == before["status"]["state_root"]


async def test_an_index_of_another_journal_is_not_believed(tmp_path: Path) -> None:
    home, identity, effects, _, before = await filled(tmp_path)
    segment_of(home.journal).unlink()

    async with opened(home, identity, effects) as answers:
        status = await answers.status(Surroundings())

    assert before["status"]["records"] == 10
    assert status["records"] == 0


async def test_an_index_that_is_behind_catches_up(tmp_path: Path) -> None:
    home, identity, effects, job, before = await filled(tmp_path)
    early = home.index.read_bytes()
    author = Author(key_of(3))
    late = author.add("tick")
    async with opened(home, identity, effects) as answers:
        await answers.feeds.add(author.cut())
    home.index.write_bytes(early)

    async with opened(home, identity, effects) as answers:
        assert (await answers.lineage(str(late)))["verified"]
        status = await answers.status(Surroundings())
        assert status["records"] == before["status"]["records"] + 1
        assert status["index_lag_bytes"] == 0
        assert await answers.lineage(str(job.output)) == before["lineage"]


async def test_an_index_that_another_program_has_open_is_left_to_it(tmp_path: Path) -> None:
    home, identity, effects, job, before = await filled(tmp_path)
    context = multiprocessing.get_context("spawn")
    is_open, is_done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(home.index), is_open, is_done))
    process.start()
    try:
        assert is_open.wait(30)

        async with opened(home, identity, effects) as answers:
            assert await everything(answers, job) == before

        assert home.index.exists()
    finally:
        is_done.set()
        process.join(30)
        process.close()


def _hold(path: str, is_open: Any, is_done: Any) -> None:
    with duckdb.connect(path):
        is_open.set()
        is_done.wait(30)


async def test_a_flipped_bit_in_the_journal_makes_the_records_unverified(tmp_path: Path) -> None:
    home, identity, effects, job, before = await filled(tmp_path)
    content = bytearray(segment_of(home.journal).read_bytes())
    at = content.index(b"job.accepted")
    content[at] ^= 0x01
    index = home.index.read_bytes()
    segment_of(home.journal).write_bytes(content)
    home.index.write_bytes(index)

    async with opened(home, identity, effects) as answers:
        lineage = await answers.lineage(str(job.output))

    assert before["lineage"]["verified"]
    assert not lineage["verified"]
    unproven = {r["kind"] for r in lineage["records"] if not r["verified"]}
    assert unproven == {"job.submitted", "job.accepted"}


async def test_own_records_are_verified_once_they_are_signed(tmp_path: Path) -> None:
    home, identity, effects = aggregator_home(tmp_path)

    async with opened(home, identity, effects) as answers:
        cid = await answers.feeds.append(_own_record(answers))
        await answers.index.catch_up()
        before = await answers.lineage(str(cid))
        await answers.feeds.cut_all()
        await answers.index.catch_up()
        after = await answers.lineage(str(cid))

    assert not before["verified"]
    assert after["verified"]


async def test_own_records_that_moved_to_a_new_epoch_are_verified_there(tmp_path: Path) -> None:
    home, identity, effects = aggregator_home(tmp_path)

    async with opened(home, identity, effects) as answers:
        cid = await answers.feeds.append(_own_record(answers))
        answers.feeds.start_epoch_above(answers.feeds.epoch + 5, 3)
        await answers.feeds.cut_all()
        await answers.index.catch_up()
        after = await answers.lineage(str(cid))

    assert after["verified"]
    assert [(r["epoch"], r["sequence"]) for r in after["records"]] == [(answers.feeds.epoch, 0)]
