"""A disk that damages the copies of what redacts, or one of the bundles that it stands in: nothing
comes back, and `check` names what nobody can be shown, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from aggregator.answers import Answers
from aggregator.core import opened
from peer.keeping import keep_statements
from peer.service import running
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.journal import Entry
from protocols.keys import SigningKey
from protocols.membership import AGGREGATOR
from protocols.record import Record
from protocols.roster import CERTIFICATE_KIND, chain_attributes
from protocols.tombstone import TOMBSTONE_KIND, Tombstone
from tests.aggregator.test_check import checked, codes
from tests.aggregator.test_lost_tombstones import (
    OPERATOR,
    SUBMITTER,
    WHY,
    WORKER,
    Buried,
    buried,
    erase,
    erased,
    held_bodies,
    lose,
)
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import TestMesh, key_of
from tests.support.rot import flip_at


def copies(answers: Answers) -> list[int]:
    return [at for at, _, kind, _ in answers.journal.scan() if kind is Entry.KEPT]


def bundle_at(answers: Answers, bundle: Bundle) -> int:
    [at] = [
        at
        for at, _, kind, body in answers.journal.scan()
        if kind is Entry.BUNDLE and Bundle.decode(body).cid == bundle.cid
    ]
    return at


async def kept(answers: Answers, count: int) -> None:
    with trio.fail_after(30):
        while len(answers.feeds.bodies.kept) < count:  # noqa: ASYNC110 - the journal's thread works
            await trio.sleep(0.005)


async def taken_back(of: Buried) -> bytes:
    """What a start has of the redacted run, after somebody sent it whole once more."""
    async with opened(*of.joined) as answers:
        await answers.feeds.add(of.whole)
        return held_bodies(answers.feeds, of.whole)[of.job.run]


async def test_a_copy_that_rots_is_made_anew_before_its_bundle_rots_too(tmp_path: Path) -> None:
    of = buried(tmp_path)
    await erase(of)
    async with opened(*of.joined) as answers, running(answers.redactor.run):
        [copy] = copies(answers)
        flip_at(of.joined[0].journal, copy + 60)
        first = await checked(answers)
        await kept(answers, 1)
        lose(of)
        second = await checked(answers)

    assert codes(first) == []
    assert "tombstone-lost" in codes(second)
    assert await taken_back(of) == b""


async def test_a_copy_that_rots_after_its_bundle_is_made_anew_when_the_bundle_comes_again(
    tmp_path: Path,
) -> None:
    of = buried(tmp_path)
    await erase(of)
    async with opened(*of.joined) as answers, running(answers.redactor.run):
        [copy] = copies(answers)
        lose(of)
        flip_at(of.joined[0].journal, copy + 60)
        gone = await checked(answers)
        none_left = set(answers.feeds.bodies.kept)
        await answers.feeds.add_all(of.burial)
        await kept(answers, 1)
        healed = await checked(answers)
        lose(of)

    [lost] = [each for each in gone["findings"] if each["code"] == "tombstone-lost"]
    assert "until the next start" in lost["message"]
    assert none_left == set()
    assert codes(healed) == []
    assert await taken_back(of) == b""


class Certified(Author):
    """An operator with two certificates, the earlier of which has the greater CID, or the less."""

    def __init__(self, key: SigningKey, mesh: TestMesh, *, is_first_greater: bool) -> None:
        super().__init__(key)
        member = mesh.membership(key, AGGREGATOR)
        shown = [self._showing(chain_attributes(member), number) for number in range(2)]
        self.shown = sorted(shown, key=lambda each: CID.of(each.encode()), reverse=is_first_greater)

    def _showing(self, attributes: dict[str, Any], number: int) -> Record:
        public, nonce = self.key.public, bytes([number])
        return Record(
            author=public, nonce=nonce, kind=CERTIFICATE_KIND, start_us=1, attributes=attributes
        )

    def show_next(self) -> Bundle:
        self._keep(self.shown[len(self.bundles) and 1])
        return self.cut()


@pytest.mark.parametrize("is_first_greater", [True, False])
@pytest.mark.parametrize("rotten", [0, 1])
async def test_one_of_two_certificates_is_enough_for_every_answer(
    tmp_path: Path, rotten: int, is_first_greater: bool
) -> None:
    mesh = TestMesh()
    worker, submitter = Author(WORKER), Author(SUBMITTER)
    operator = Certified(OPERATOR, mesh, is_first_greater=is_first_greater)
    job, joined = SignedJob(worker, submitter), aggregator_home(tmp_path, mesh)
    first = operator.show_next()
    said = Tombstone(records=(job.run,), reason=WHY, authority="aggregator")
    operator.add(TOMBSTONE_KIND, attributes=said.to_attributes())
    burial = operator.cut()
    second = operator.show_next()
    async with opened(*joined) as answers, running(answers.redactor.run):
        await answers.feeds.add_all([worker.cut(), first, burial, submitter.cut()])
        await erased(answers)
        await answers.feeds.add(second)
        await answers.index.catch_up()
        at = bundle_at(answers, (first, second)[rotten])
    async with opened(*joined) as answers, running(answers.redactor.run):
        await kept(answers, 2)
        flip_at(joined[0].journal, at + 300)
        said_at_once = await what_is_said(answers, job)
    async with opened(*joined) as answers:
        said_again = await what_is_said(answers, job)

    proofs = {burial.encode(), (second, first)[rotten].encode()}
    assert said_at_once == said_again == (["damaged"], True, proofs)


async def what_is_said(answers: Answers, job: SignedJob) -> tuple[list[str], bool, set[bytes]]:
    found = codes(await checked(answers))
    lineage = await answers.lineage(str(job.accepted))
    told = answers.feeds.about_redactions_of(WORKER.public, WORKER.public, set())
    return found, lineage["verified"], set(told)


@pytest.mark.parametrize("rotten", [0, 1])
async def test_a_tombstone_in_two_bundles_outlives_either(tmp_path: Path, rotten: int) -> None:
    """Unsigned records of a feed move to its new epoch: they may have been signed before."""
    of = buried(tmp_path)
    await erase(of)
    again = sign_bundle(key_of(1), Place(2, 0, None), list(of.burial[0].records), 2)
    async with opened(*of.joined) as answers:
        await answers.feeds.add(again)
        await answers.index.catch_up()
        at = bundle_at(answers, (of.burial[0], again)[rotten])
        flip_at(of.joined[0].journal, at + 200)
        answer = await checked(answers)
        lineage = await answers.lineage(str(of.job.accepted))
        verify = await answers.verify(str(of.job.run), False)
        told = set(answers.feeds.about_redactions_of(WORKER.public, OPERATOR.public, set()))

    assert "tombstone-lost" not in codes(answer)
    assert lineage["verified"]
    assert verify["faults"] == []
    assert told == {(again, of.burial[0])[rotten].encode()}


class Turns(trio.abc.Instrument):
    """Counts how often every task that was ready has had its turn."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_however_many_statements_a_bundle_has_it_is_read_once_to_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And others have their turn between two bundles."""
    author, joined = Author(WORKER), aggregator_home(tmp_path)
    bundles: list[Bundle] = []
    for start in range(0, 48, 16):
        for number in range(start, start + 16):
            said = Tombstone(records=(CID.of(bytes([number])),), reason=WHY, authority="author")
            author.add(TOMBSTONE_KIND, attributes=said.to_attributes())
        bundles.append(author.cut())
    turns, read_in = Turns(), list[int]()
    decode = Bundle.decode_verified

    def counted(body: bytes) -> Bundle:
        read_in.append(turns.count)
        return decode(body)

    async with opened(*joined) as answers:
        await answers.feeds.add_all(bundles)
        await answers.index.catch_up()
        monkeypatch.setattr(Bundle, "decode_verified", counted)
        trio.lowlevel.add_instrument(turns)
        await keep_statements(answers.journal, answers.feeds, answers.feeds.bodies.pending)
        trio.lowlevel.remove_instrument(turns)
        read, kept_now = list(read_in), len(answers.feeds.bodies.kept)

    assert kept_now == 48
    assert len(read) == len(set(read)) == len(bundles)
