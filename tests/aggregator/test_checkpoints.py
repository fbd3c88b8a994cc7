from __future__ import annotations

import os
from pathlib import Path

import pytest

from aggregator.answers import Answers
from aggregator.core import opened
from peer.effects import Effects
from peer.home import Home
from peer.identity import Identity
from peer.recorder import Recorder
from peer.service import running
from peer.showing import show_certificate
from protocols.checkpoint import heads_blocks, heads_in
from protocols.cid import CID
from protocols.feed import Bundle, Head
from protocols.limits import MAX_CHECKPOINT_HEADS, MAX_RECORD_BYTES, MAX_SEQUENCE
from protocols.record import block
from protocols.report import RECORD_KIND
from protocols.vouching import Told
from tests.aggregator.test_check import a_job, checked, codes
from tests.support.feeds import bundles_of, effects, record
from tests.support.home import Author, aggregator_home
from tests.support.members import TestMesh, key_of
from tests.support.reports import a_report

Joined = tuple[Home, Identity, Effects]


async def showing(joined: Joined, answers: Answers) -> None:
    await show_certificate(Recorder(answers.feeds, effects()), joined[1].member)


async def test_a_checkpoint_vouches_for_what_is_held_and_status_shows_it(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    async with opened(*joined) as answers:
        await showing(joined, answers)
        await answers.feeds.add_all(a_job()[1])
        made = await answers.checkpoint()
        await answers.intake.catch_up()
        [told] = await answers.vouched()
        check = await checked(answers)

    assert made["is_new"]
    assert told["cid"] == made["cid"]
    assert (told["is_own"], told["is_held"], told["records"]) == (True, True, 9)
    assert check["findings"] == []


async def test_authors_are_told_of_the_latest_checkpoint_behind_what_it_says_of_them(
    tmp_path: Path,
) -> None:
    joined = aggregator_home(tmp_path)
    _job, bundles = a_job()
    own = bundles[0].header.feed
    async with opened(*joined) as answers:
        await answers.feeds.add_all(bundles)
        async with running(answers.checkpoints.run):
            before = answers.checkpoints.vouching(own)
            made = [await answers.checkpoints.make()]
            await answers.feeds.append(record(answers.feeds.key, 1))
            made.append(await answers.checkpoints.make())
            links = answers.feeds.vouching(own)
            told = Told(own)
            found = [told.take(Bundle.decode(answers.feeds.read(each) or b"")) for each in links]
    async with opened(*joined) as again, running(again.checkpoints.run):
        after = again.checkpoints.vouching(own)

    assert before == []
    assert made[1] is not None
    assert found[-1] is not None
    assert found[-1].cid == made[1].cid
    assert found[-1].heads_of(own) == [head for head in made[1].heads or () if head.feed == own]
    assert [each.digest for each in after] == [each.digest for each in links]


async def test_nothing_is_signed_when_nothing_came_but_checkpoints(tmp_path: Path) -> None:
    mesh = TestMesh()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    homes = [
        aggregator_home(tmp_path / name, mesh, seed=seed)
        for seed, name in enumerate(("one", "other"), 1)
    ]
    async with opened(*homes[0]) as one, opened(*homes[1]) as other:
        await one.feeds.add_all(a_job()[1])
        signed = [await one.checkpoints.make(), await one.checkpoints.make()]
        await other.feeds.add_all(bundles_of(one.feeds))
        signed.append(await other.checkpoints.make())
        await one.feeds.add_all(bundles_of(other.feeds))
        signed.append(await one.checkpoints.make())

    assert [each is not None for each in signed] == [True, False, True, False]


async def test_what_was_vouched_for_and_is_lost_is_named(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    _job, bundles = a_job()
    async with opened(*joined) as answers:
        await answers.feeds.add_all(bundles)
        made = await answers.checkpoint()
        vouching = bundles_of(answers.feeds)
    for path in tmp_path.rglob("*"):
        if path.is_file() and (path.suffix == ".segment" or "index" in path.name):
            os.unlink(path)
    async with opened(*joined) as answers:
        worker = bundles[2].feed
        await answers.feeds.add_all(each for each in vouching if each.cid != bundles[2].cid)
        check = await checked(answers)

    lost = [each for each in check["findings"] if each["code"] == "behind-checkpoint"]
    assert [each["feed"] for each in lost] == [worker]
    assert made["heads"] == 2


async def test_two_aggregators_compare_themselves_by_checkpoints(tmp_path: Path) -> None:
    mesh = TestMesh()
    homes: list[Joined] = []
    for seed, name in enumerate(("one", "other"), 1):
        (tmp_path / name).mkdir()
        homes.append(aggregator_home(tmp_path / name, mesh, seed=seed))
    async with opened(*homes[0]) as one, opened(*homes[1]) as other:
        await showing(homes[0], one)
        await one.feeds.add_all(a_job()[1])
        await one.checkpoint()
        theirs = bundles_of(one.feeds)
        await other.feeds.add_all(
            each for each in theirs if each.header.feed == one.feeds.key.public
        )
        await other.intake.catch_up()
        [before] = await other.vouched()
        await other.feeds.add_all(theirs)
        await other.intake.catch_up()
        [after] = await other.vouched()

    assert (before["is_held"], len(before["lacking"])) == (False, 2)
    assert (after["is_held"], after["is_own"]) == (True, False)


def test_a_block_of_the_longest_heads_is_a_record() -> None:
    head = Head(b"f" * 32, (1 << 48) - 1, MAX_SEQUENCE - 1, MAX_SEQUENCE, CID.of(b"x"))
    heads = [head] * (MAX_CHECKPOINT_HEADS + 1)

    blocks = list(heads_blocks(heads))

    assert [len(heads_in(each)) for each in blocks] == [MAX_CHECKPOINT_HEADS, 1]
    sizes = [len(block(key_of(1).public, "state.heads", each).encode()) for each in blocks]
    assert max(sizes) <= MAX_RECORD_BYTES


async def test_a_redacted_report_leaves_its_group_and_its_issue_is_named(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    author = Author(key_of(1))
    first, second = (author.report(a_report(time_us=at)) for at in (1, 2))
    async with opened(*joined) as answers:
        await showing(joined, answers)
        await answers.feeds.add(author.cut())
        await answers.intake.catch_up()
        counts = [[group["count"] for group in answers.groups()]]
        async with running(answers.redactor.run):
            for cid in (first, second):
                await answers.redact([str(cid)], "a person's name")
                counts.append([group["count"] for group in answers.groups()])
        left = await answers.index.ask(lambda store: store.records_since(0, (RECORD_KIND,)))
        check = await checked(answers)
        verdict = await answers.verify(str(first), is_deep=True)

    assert counts == [[2], [1], []]
    assert left == []
    assert codes(check) == []
    assert verdict["ok"]
    assert verdict["redacted"][0]["mesh"] is not None


async def test_a_body_that_nobody_sent_is_named_and_no_redaction(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    _job, bundles = a_job()
    lacking = bundles[0].with_records((b"", *bundles[0].records[1:]))
    async with opened(*joined) as answers:
        await answers.feeds.add_all([lacking, *bundles[1:]])
        check = await checked(answers, "operator")

    [found] = [each for each in check["findings"] if each["code"] == "body-absent"]
    assert found["feed"] == bundles[0].feed
    assert found["fetch_from"] == [bundles[0].feed, "operator"]


@pytest.mark.parametrize("reason", ["", "x" * 501])
async def test_a_reason_of_no_sensible_length_is_refused(tmp_path: Path, reason: str) -> None:
    joined = aggregator_home(tmp_path)
    author = Author(key_of(1))
    cid = author.add("tick")
    async with opened(*joined) as answers:
        await answers.feeds.add(author.cut())
        with pytest.raises(Exception, match="a reason has 1 to 500") as refused:
            await answers.redact([str(cid)], reason)

    assert getattr(refused.value, "code", "") == "bad-input"
