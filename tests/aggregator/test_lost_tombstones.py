"""A disk that damages a record which redacts others: what was erased stays so, `check` says what is
lost, and all answers agree.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock

from aggregator.answers import Answers
from aggregator.cli.lineage import render
from aggregator.core import opened
from aggregator.relatives import Asked
from aggregator.seeking import Seeking
from aggregator.store import Store
from peer.effects import Effects
from peer.feeds import Feeds
from peer.home import Home
from peer.identity import Identity
from peer.index import Index
from peer.recorder import Recorder
from peer.redactor import Redactor
from peer.service import running
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import Bundle, UnverifiedBundle
from protocols.journal import Entry
from protocols.membership import AGGREGATOR
from protocols.tombstone import TOMBSTONE_KIND, Authority, Tombstone
from tests.aggregator.test_check import checked, codes
from tests.support import rot
from tests.support.exchanging import FOLLOWING, Meeting, meet, until
from tests.support.feeds import effects
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import TestMesh, key_of

Joined = tuple[Home, Identity, Effects]

WORKER, SUBMITTER, OPERATOR, OTHER = key_of(1), key_of(2), key_of(3), key_of(4)
WHY = "names a customer"


class Buried(NamedTuple):
    """A job whose run was redacted, by its worker or by another aggregator: every bundle."""

    joined: Joined
    job: SignedJob
    whole: Bundle
    """The worker's, as whoever keeps a copy has it."""
    burial: list[Bundle]
    tombstone: CID
    by: str


def buried(path: Path, authority: Authority = "author") -> Buried:
    mesh = TestMesh()
    worker, submitter, operator = Author(WORKER), Author(SUBMITTER), Author(OPERATOR)
    job = SignedJob(worker, submitter)
    whole = worker.cut()
    speaker = worker if authority == "author" else operator
    burial: list[Bundle] = []
    if authority == "aggregator":
        operator.show(mesh.membership(OPERATOR, AGGREGATOR))
        burial.append(operator.cut())
    said = Tombstone(records=(job.run,), reason=WHY, authority=authority)
    tombstone = speaker.add(TOMBSTONE_KIND, attributes=said.to_attributes())
    burial += [speaker.cut(), submitter.cut()]
    by = speaker.key.peer_id
    return Buried(aggregator_home(path, mesh), job, whole, burial, tombstone, by)


async def erase(of: Buried, *, is_indexed: bool = True) -> None:
    """Hold all of it, until the body is gone from the disk."""
    async with opened(*of.joined) as answers, running(answers.redactor.run):
        await answers.feeds.add_all([of.whole, *of.burial])
        await erased(answers)
        if is_indexed:
            await answers.index.catch_up()


async def erased(answers: Answers) -> None:
    with trio.fail_after(30):
        while answers.feeds.bodies.pending:  # noqa: ASYNC110 - threads of index and journal work
            await trio.sleep(0.005)


def lose(of: Buried, what: str = WHY) -> None:
    rot.flip(of.joined[0].journal, what.encode())


async def noticed_at_a_start(of: Buried) -> None:
    lose(of)


async def noticed_by_check(of: Buried) -> None:
    async with opened(*of.joined) as answers:
        lose(of)
        await checked(answers)


async def noticed_before_a_rebuild(of: Buried) -> None:
    lose(of)
    async with opened(*of.joined) as answers:
        await answers.rebuild()


NOTICED = (noticed_at_a_start, noticed_by_check, noticed_before_a_rebuild)


@pytest.mark.parametrize("authority", ["author", "aggregator"])
@pytest.mark.parametrize("notice", NOTICED)
async def test_what_was_redacted_is_not_taken_again_while_its_tombstone_is_damaged(
    tmp_path: Path, notice: Callable[[Buried], Awaitable[None]], authority: Authority
) -> None:
    of = buried(tmp_path, authority)
    await erase(of)
    await notice(of)

    async with opened(*of.joined) as answers:
        wants = answers.feeds.wants(UnverifiedBundle.open(of.whole.encode()))
        missing = await answers.missing()
        await answers.feeds.add(of.whole)
        held = held_bodies(answers.feeds, of.whole)
        absent = answers.feeds.bodies.lacking

    assert not wants
    assert missing == []
    assert held[of.job.run] == b""
    assert absent == []


async def test_a_damaged_certificate_takes_no_effect_from_what_it_has_had_erased(
    tmp_path: Path,
) -> None:
    of = buried(tmp_path, "aggregator")
    await erase(of)
    lose(of, "member.certificate")

    async with opened(*of.joined) as answers:
        await answers.feeds.add(of.whole)
        held = held_bodies(answers.feeds, of.whole)
        answer = await checked(answers)

    assert held[of.job.run] == b""
    [lost] = [each for each in answer["findings"] if each["code"] == "tombstone-lost"]
    assert "certificate" in lost["message"]
    assert lost["fetch_from"] == [OPERATOR.peer_id]


async def test_a_tombstone_of_which_only_the_bundle_is_left_is_kept_twice_again(
    tmp_path: Path,
) -> None:
    """So are those of a journal from before tombstones were kept twice."""
    of = buried(tmp_path)
    await erase(of)
    async with opened(*of.joined) as answers:
        [copy] = [at for at, _, kind, _ in answers.journal.scan() if kind is Entry.KEPT]
        await answers.journal.rewrite({copy: None})

    async with opened(*of.joined) as answers:
        early = set(answers.feeds.bodies.kept)
    async with opened(*of.joined) as answers, running(answers.redactor.run):
        with trio.fail_after(30):
            while not answers.feeds.bodies.kept:  # noqa: ASYNC110 - the journal's thread works
                await trio.sleep(0.005)
        await erased(answers)
    lose(of)
    async with opened(*of.joined) as answers:
        await answers.feeds.add(of.whole)
        held = held_bodies(answers.feeds, of.whole)

    assert early == set()
    assert held[of.job.run] == b""


def held_bodies(feeds: Feeds, bundle: Bundle) -> dict[CID, bytes]:
    chain = feeds.chains[bundle.header.feed, bundle.header.epoch]
    link = chain.find(bundle.header.first_sequence, bundle.cid.digest)
    assert link is not None
    stored = feeds.read(link)
    assert stored is not None
    cids = map(CID.of_digest, bundle.header.digests)
    return dict(zip(cids, Bundle.decode(stored).records, strict=True))


@pytest.mark.parametrize("notice", NOTICED)
async def test_check_names_a_lost_tombstone_what_it_redacts_and_who_may_have_it(
    tmp_path: Path, notice: Callable[[Buried], Awaitable[None]]
) -> None:
    of = buried(tmp_path)
    await erase(of)
    async with opened(*of.joined) as answers:
        before = await checked(answers)
    await notice(of)

    async with opened(*of.joined) as answers:
        first = await checked(answers, OTHER.peer_id)
        again = await checked(answers, OTHER.peer_id)
        await answers.feeds.add_all(of.burial)
        healed = await checked(answers, OTHER.peer_id)

    assert before["findings"] == []
    for answer in (first, again):
        [lost] = [each for each in answer["findings"] if each["code"] == "tombstone-lost"]
        assert (lost["feed"], lost["cid"]) == (of.by, str(of.tombstone))
        assert str(of.job.run) in lost["message"]
        assert lost["fetch_from"] == [of.by, OTHER.peer_id]
    assert codes(healed) == []


async def test_no_peer_gives_a_redacted_body_back_and_any_that_has_the_tombstone_heals_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    of, meeting = buried(tmp_path / "home"), Meeting(tmp_path)
    async with meeting.peer(9, FOLLOWING) as us:
        await us.feeds.add_all([of.whole, *of.burial])
        index = Index(us.journal, tmp_path / "index", us.key.public, Store.open)
        redactor = Redactor(us.journal, us.feeds, index, Recorder(us.feeds, effects(1)))
        async with running(index.run):
            await redactor.erase(us.feeds.bodies.pending)
    rot.flip(tmp_path / "journal-9", WHY.encode())

    async with meeting.peer(9, FOLLOWING) as us:
        first = [each.cid for each in us.feeds.bodies.unshown()]
        async with meeting.peer(10) as keeper:
            await keeper.feeds.add(of.whole)
            await meet(us, keeper)
            await trio.sleep(600)
            await Seeking(index, us.feeds, us.exchange, effects()).seek([of.job.run.digest])
            bodies = [held_bodies(us.feeds, of.whole)[of.job.run]]
        async with meeting.peer(11) as relay:
            await relay.feeds.add_all(of.burial)
            await meet(us, relay)
            await until(lambda: not us.feeds.bodies.unshown())
            bodies.append(held_bodies(us.feeds, of.whole)[of.job.run])

    assert first == [of.tombstone]
    assert bodies == [b"", b""]


async def told(answers: Answers, job: SignedJob) -> dict[str, Any]:
    """What every reader says of a redacted run, and of the acceptance that names it."""
    await answers.index.catch_up()
    with pytest.raises(CoveyError) as refused:
        await answers.lineage(str(job.run))
    lineage = await answers.lineage(str(job.accepted))
    listed = await answers.relatives(Asked.parse(str(job.accepted), "ancestors", 9, 100, ""))
    return {
        "lineage of it": refused.value.code,
        "is_verified": lineage["verified"],
        "verify accepted": (await answers.verify(str(job.accepted), True))["ok"],
        "rendered": render(lineage),
        "lineage": [each["redacted"] for each in lineage["missing"] if each["redacted"]],
        "verified": {each["cid"]: each["verified"] for each in lineage["records"]},
        "listed": [node["cid"] for node in listed["nodes"] if node["what"] == "redacted"],
        "verify": await answers.verify(str(job.run), False),
        "export": await answers.export("car", str(job.accepted), "", io.BytesIO()),
    }


@pytest.mark.parametrize("notice", NOTICED)
async def test_every_answer_says_the_same_of_what_a_lost_tombstone_redacts(
    tmp_path: Path, notice: Callable[[Buried], Awaitable[None]]
) -> None:
    of = buried(tmp_path)
    await erase(of)
    await notice(of)

    async with opened(*of.joined) as answers:
        await answers.feeds.add(of.whole)
        lost = await told(answers, of.job)
        await answers.feeds.add_all(of.burial)
        healed = await told(answers, of.job)

    for said in (lost, healed):
        assert said["lineage of it"] == "redacted"
        assert [each["tombstone"] for each in said["lineage"]] == [str(of.tombstone)]
        assert all(said["verified"].values())
        assert said["is_verified"] is said["verify accepted"]
        assert said["listed"] == [str(of.job.run)]
        assert [each["cid"] for each in said["export"]["redacted"]] == [str(of.job.run)]
    assert (lost["is_verified"], healed["is_verified"]) == (False, True)
    assert f"({WHY}), NOT VERIFIED: " in lost["rendered"]
    assert "NOT VERIFIED" not in healed["rendered"]
    assert not lost["verify"]["ok"]
    [named] = lost["verify"]["faults"]
    assert named.startswith(f"record {of.tombstone}, by which others are redacted: ")
    assert lost["export"]["unproven"] == [str(of.tombstone)]
    assert healed["verify"]["ok"]
    assert healed["export"]["unproven"] == []
