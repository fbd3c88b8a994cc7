"""Of records that the journal has more than once every answer says the same."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pytest

from aggregator.answers import Answers
from aggregator.core import opened
from peer.exports import FORMATS
from protocols.feed import Bundle
from tests.aggregator.test_check import a_job, checked, holding, of_ours
from tests.support import rot
from tests.support.feeds import bundles_of
from tests.support.home import SignedJob, aggregator_home


async def all_of_it_is_proven(answers: Answers, job: SignedJob) -> None:
    await answers.index.catch_up()
    lineage = await answers.lineage(str(job.accepted))
    verdict = await answers.verify(str(job.accepted), True)

    assert [each["kind"] for each in lineage["records"] if not each["verified"]] == []
    assert (verdict["ok"], verdict["faults"]) == (True, [])
    for form in FORMATS:
        for asked, since in ((str(job.accepted), ""), (None, "2020-01-01")):
            summary = await answers.export(form, asked, since, io.BytesIO())
            assert summary["unproven"] == []


def without_bodies(bundle: Bundle) -> Bundle:
    """Without every other one."""
    kept = (b"" if at % 2 else each for at, each in enumerate(bundle.records))
    return bundle.with_records(kept)


async def test_a_bundle_that_was_filled_is_whole_in_every_answer(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    job, bundles = a_job()
    async with holding(joined, *map(without_bodies, bundles)) as answers:
        await answers.index.catch_up()
        await answers.feeds.add_all(bundles)
        await all_of_it_is_proven(answers, job)
        check = await checked(answers)

    assert check["ok"]


async def test_what_was_damaged_and_came_again_is_exported_once(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
        rot.flip(joined[0].journal, b"job.run")
        await checked(answers)
        await answers.feeds.add_all(bundles)
        await all_of_it_is_proven(answers, job)
        with (tmp_path / "all.parquet").open("wb") as out:
            summary = await answers.export("parquet", None, "", out)

    rows = duckdb.sql(
        f"SELECT count(*), count(DISTINCT cid) FROM '{tmp_path / 'all.parquet'}'"
    ).fetchall()
    assert rows == [(8, 8)]
    assert summary["records"] == 8


@pytest.mark.parametrize("rotten", [b"own-a", b"own-b"])
async def test_a_bundle_of_ours_that_was_given_back_is_whole_in_every_answer(
    tmp_path: Path, rotten: bytes
) -> None:
    joined = aggregator_home(tmp_path)
    async with opened(*joined) as answers:
        cids = [
            await answers.feeds.append(of_ours(answers, number, kind))
            for number, kind in enumerate(("own-a", "own-b"))
        ]
        await answers.feeds.cut_all()
        copies = bundles_of(answers.feeds)
        await answers.index.catch_up()
        rot.flip(joined[0].journal, rotten)
        await checked(answers)
        await answers.feeds.add_all(copies)
        verdicts = [await answers.verify(str(cid), False) for cid in cids]
        lineages = [await answers.lineage(str(cid)) for cid in cids]

    assert [each["ok"] for each in verdicts] == [True, True]
    assert [each["verified"] for each in lineages] == [True, True]
