"""Who is said to have made what a redacted record made, whatever other members sign and write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from aggregator.answers import Answers
from aggregator.cli.lineage import render
from aggregator.core import opened
from peer.excerpt_commands import redaction_line
from peer.exports import FORMATS
from peer.service import running
from protocols.cid import CID
from protocols.feed import Place, sign_bundle
from protocols.verification import verify_excerpt
from tests.aggregator.test_checkpoints import showing
from tests.aggregator.test_redacted_answers import WHY, listed, redacted
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import key_of

WORKER, SUBMITTER = key_of(1), key_of(2)
BY_KEY = sorted((key_of(number) for number in range(10, 60)), key=lambda key: key.public)
STRANGERS = (BY_KEY[0], BY_KEY[-1])


async def makers(answers: Answers, entity: CID) -> list[dict[str, Any]]:
    return (await listed(answers, entity, "ancestors"))["makers"]


async def add(answers: Answers, author: Author) -> None:
    await answers.feeds.add(author.cut())
    await answers.index.catch_up()


async def name(answers: Answers, job: SignedJob, stranger: int) -> str:
    """Sign, as a stranger, a header that names the worker's run."""
    [run] = [
        record.encode()
        for record in job.worker.records
        if CID.of(record.encode()) == job.run
    ]  # fmt: skip
    signed = sign_bundle(STRANGERS[stranger], Place(1, 0, None), [run], 1)
    await answers.feeds.add(signed.with_records([b""]))
    await answers.index.catch_up()
    return STRANGERS[stranger].peer_id


def test_one_stranger_comes_before_the_worker_and_one_after() -> None:
    assert STRANGERS[0].public < WORKER.public < STRANGERS[1].public


@pytest.mark.parametrize("stranger", [0, 1])
async def test_a_stranger_whose_header_names_a_run_is_not_its_worker(
    tmp_path: Path, stranger: int
) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        before = await makers(answers, job.output)
        await name(answers, job, stranger)
        after = await makers(answers, job.output)

    assert [each["peer"] for each in before] == [WORKER.peer_id]
    assert after == before


async def test_much_that_a_stranger_writes_does_not_hide_who_made_something(
    tmp_path: Path,
) -> None:
    stranger = Author(STRANGERS[0])
    others = tuple(CID.of(number.to_bytes(4, "big")) for number in range(900))
    async with redacted(tmp_path, "run") as (answers, job):
        before = await makers(answers, job.output)
        for number in range(24):  # about half of them stand before the submitter's record
            kind = "job.accepted" if number % 2 else "other"
            used = ((job.output, "output"),)
            stranger.add(kind, used=used, informed_by=(*others, job.submitted))
        for first in range(0, 24, 8):
            await answers.feeds.add_all(_cut(stranger, first, first + 8))
        await answers.index.catch_up()
        after = await makers(answers, job.output)

    assert len(before) == 1
    assert after == before


def _cut(author: Author, first: int, end: int) -> list[Any]:
    """Sign records one by one: each is large."""
    bundles: list[Any] = []
    for sequence in range(first, end):
        previous = author.bundles[-1].cid if author.bundles else None
        place = Place(author.epoch, sequence, previous)
        bundles.append(sign_bundle(author.key, place, [author.records[sequence].encode()], 1))
        author.bundles.append(bundles[-1])
    return bundles


async def test_a_maker_is_told_with_all_who_say_so(tmp_path: Path) -> None:
    stranger = Author(STRANGERS[0])
    async with redacted(tmp_path, "run") as (answers, job):
        used, worker = ((job.output, "output"),), {"worker": WORKER.peer_id}
        said = stranger.add("job.late", used=used, informed_by=(job.run,), attributes=worker)
        again = stranger.add("job.accepted", used=used, informed_by=(job.run,), attributes=worker)
        await add(answers, stranger)
        [maker] = await makers(answers, job.output)
        lineage = await answers.lineage(str(job.output))

    told = {(each["cid"], each["peer"]) for each in maker["told_by"]}
    assert told == {
        (str(job.accepted), SUBMITTER.peer_id),
        (str(min(said, again)), stranger.key.peer_id),
    }
    says = f"says {', '.join(each['peer'] for each in maker['told_by'])};"
    assert says in render(lineage)


@pytest.mark.parametrize(
    ("kind", "worker"),
    [("other", WORKER.peer_id), ("job.accepted", SUBMITTER.peer_id), ("job.accepted", "")],
)
async def test_a_record_that_took_nothing_of_that_worker_names_no_maker(
    tmp_path: Path, kind: str, worker: str
) -> None:
    stranger, thing = Author(STRANGERS[0]), CID.of(b"found", 0x55)
    async with redacted(tmp_path, "run") as (answers, job):
        used, attributes = ((thing, "output"),), {"worker": worker}
        stranger.add(kind, used=used, informed_by=(job.run,), attributes=attributes)
        await add(answers, stranger)
        told = await makers(answers, thing)

    assert told == []


async def test_what_a_node_submitted_to_itself_is_no_maker(tmp_path: Path) -> None:
    joined, one = aggregator_home(tmp_path), Author(key_of(1))
    job = SignedJob(one, one)
    async with opened(*joined) as answers:
        await showing(joined, answers)
        await answers.feeds.add(one.cut())
        async with running(answers.redactor.run):
            for cid in (job.run, job.submitted):
                await answers.redact([str(cid)], WHY)
        await answers.feeds.cut_all()
        told = await makers(answers, job.output)

    assert [each["cid"] for each in told] == [str(job.run)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stranger", [0, 1])
async def test_an_export_names_the_worker_and_no_stranger(
    tmp_path: Path, form: str, stranger: int
) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        await name(answers, job, stranger)
        summary = await answers.export(form, str(job.accepted), "", io.BytesIO())

    [told] = summary["redacted"]
    assert (told["signed_by"], told["named_by"]) == (WORKER.peer_id, [WORKER.peer_id])


@pytest.mark.parametrize("form", FORMATS)
async def test_an_export_that_shows_no_taker_names_all_whose_headers_name_a_record(
    tmp_path: Path, form: str
) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        strangers = {await name(answers, job, number) for number in (0, 1)}
        out = io.BytesIO()
        summary = await answers.export(form, str(job.run), "", out)
        alone = await answers.verify(str(job.run), is_deep=False)

    [told] = summary["redacted"]
    assert told["signed_by"] is None
    assert set(told["named_by"]) == {WORKER.peer_id, *strangers}
    assert all(peer in redaction_line(told) for peer in told["named_by"])
    assert alone["redacted"][0]["named_by"] == told["named_by"]
    assert alone["ok"]
    if form == "car":
        verdict = verify_excerpt(io.BytesIO(out.getvalue()).read)
        assert verdict.is_good
        assert len(verdict.redacted[job.run].signers) == len(told["named_by"])
