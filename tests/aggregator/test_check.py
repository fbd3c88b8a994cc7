from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from aggregator.answers import Answers
from aggregator.cli.check import _render as check_told
from aggregator.cli.status import _render as status_told
from aggregator.core import opened
from aggregator.offline import answer_offline
from aggregator.surroundings import Surroundings
from peer.effects import Effects
from peer.home import Home
from peer.identity import Identity
from protocols.ack import AckEntry, SignedAck
from protocols.feed import Bundle, Place, sign_bundle
from protocols.journal import Entry
from protocols.membership import AGGREGATOR
from protocols.record import Record
from tests.support import rot
from tests.support.feeds import bundles_of, segment_of
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import key_of
from tests.support.reports import a_report

Joined = tuple[Home, Identity, Effects]

WORKER, SUBMITTER, OTHER = key_of(1), key_of(2), key_of(3)


def a_job() -> tuple[SignedJob, list[Bundle]]:
    """A job, and after it one more bundle of each of its two peers."""
    worker, submitter = Author(WORKER), Author(SUBMITTER)
    job = SignedJob(worker, submitter)
    bundles = [worker.cut(), submitter.cut()]
    for author in (worker, submitter):
        author.add("tick", attributes={"marker": f"tick of {author.key.peer_id}"})
        bundles.append(author.cut())
    return job, bundles


@asynccontextmanager
async def holding(joined: Joined, *bundles: Bundle) -> AsyncGenerator[Answers]:
    """Open an aggregator that holds these bundles."""
    async with opened(*joined) as answers:
        await answers.feeds.add_all(bundles)
        yield answers


async def checked(answers: Answers, *aggregators: str) -> dict[str, Any]:
    return await answers.check(Surroundings(aggregators=list(aggregators)))


def held_and_damaged(status: dict[str, Any]) -> tuple[int, int, int, int]:
    """Records and bundles that are held, and those that lie in damaged bytes."""
    names = ("records", "bundles", "damaged_records", "damaged_bundles")
    held, in_bundles, damaged, in_damaged = (status[name] for name in names)
    return held, in_bundles, damaged, in_damaged


async def counted_by_both(answers: Answers) -> tuple[tuple[int, int], tuple[int, int]]:
    """Records and bundles that `check` says are held, and those that `status` says are."""
    check, status = await checked(answers), await answers.status(Surroundings())
    return (check["records"], check["bundles"]), (status["records"], status["bundles"])


def codes(answer: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in answer["findings"]]


def of_ours(answers: Answers, number: int, kind: str = "tick") -> Record:
    nonce = str(number).encode()
    return Record(author=answers.feeds.key.public, nonce=nonce, kind=kind, start_us=0)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def flip(home: Home, marker: bytes) -> None:
    rot.flip(home.journal, marker)


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return aggregator_home(tmp_path)


async def test_nothing_is_wrong_with_a_whole_journal(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        own = Record(author=answers.feeds.key.public, nonce=b"own", kind="tick", start_us=0)
        await answers.feeds.append(own)
        await answers.feeds.cut_all()
        answer = await checked(answers)

    assert answer["findings"] == []
    assert answer["ok"]
    assert (answer["records"], answer["bundles"], answer["feeds"]) == (9, 5, 3)


async def test_a_flipped_byte_names_the_records_and_who_may_have_them(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        await answers.index.catch_up()
    flip(joined[0], b"job.accepted")

    answer = await answer_offline(joined[0], "GET", "/check", {})

    [finding] = answer["findings"]
    assert finding["code"] == "damaged"
    assert finding["feed"] == SUBMITTER.peer_id
    assert (finding["epoch"], finding["first_sequence"], finding["next_sequence"]) == (1, 0, 2)
    assert finding["fetch_from"] == [SUBMITTER.peer_id]
    assert answer["damaged_bytes"] > 0
    assert not answer["ok"]


async def test_a_byte_that_flips_under_a_running_aggregator_is_found(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        assert (await checked(answers))["ok"]
        flip(joined[0], f"tick of {SUBMITTER.peer_id}".encode())
        answer = await checked(answers, OTHER.peer_id)

    [finding] = answer["findings"]
    assert (finding["code"], finding["feed"]) == ("damaged", SUBMITTER.peer_id)
    assert finding["fetch_from"] == [SUBMITTER.peer_id, OTHER.peer_id]


async def test_what_check_finds_damaged_is_held_no_longer_until_it_comes_again(
    joined: Joined,
) -> None:
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
        before = answers.standing()
        flip(joined[0], b"job.run")
        found = await checked(answers)
        standing = answers.standing()
        status = await answers.status(Surroundings())
        await answers.feeds.add_all(bundles)
        after = await checked(answers)
        restored = await answers.status(Surroundings())
        lineage = await answers.lineage(str(job.output))
        verdict = await answers.verify(str(job.output), True)
        again = answers.standing()

    assert codes(found)[0] == "damaged"
    assert (found["quarantined"], status["quarantined"]) == (1, 1)
    assert held_and_damaged(status) == (4, 3, 4, 1)
    assert (status["holes"], status["awaited"]) == (1, 4)
    assert held_and_damaged(restored) == (8, 4, 0, 0)
    assert restored["awaited"] == 0
    assert standing["state_root"] != before["state_root"]
    assert standing["holes"] == 1
    assert after["ok"]
    assert again == before
    assert all(record["verified"] for record in lineage["records"])
    assert verdict["ok"]


async def test_what_was_damaged_before_the_start_is_not_counted_as_held(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        await answers.index.catch_up()
    flip(joined[0], b"job.run")

    async with opened(*joined) as answers:
        await answers.index.catch_up()
        status = await answers.status(Surroundings())

    assert status["quarantined"] == 0
    assert held_and_damaged(status) == (4, 3, 4, 1)


async def test_damage_that_an_answer_comes_upon_is_held_no_longer(joined: Joined) -> None:
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
        flip(joined[0], b"job.run")
        verdict = await answers.verify(str(job.output), True)
        holes = answers.standing()["holes"]

    assert not verdict["ok"]
    assert holes == 1


async def test_a_flipped_last_entry_is_named_although_it_is_cut_as_a_tail(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        await answers.index.catch_up()
    flip(joined[0], f"tick of {SUBMITTER.peer_id}".encode())

    answer = await answer_offline(joined[0], "GET", "/check", {})

    [finding] = answer["findings"]
    assert (finding["feed"], finding["first_sequence"]) == (SUBMITTER.peer_id, 2)
    assert answer["tail_cut_bytes"] > 0


async def test_an_index_knows_its_journal_although_that_grew_past_the_mark_again(
    joined: Joined,
) -> None:
    _, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
    flip(joined[0], f"tick of {SUBMITTER.peer_id}".encode())
    index, kept = joined[0].index, joined[0].path / "kept"
    index.rename(kept)
    async with holding(joined) as answers:  # cuts the tail, and writes where it was
        own = Record(
            author=answers.feeds.key.public, nonce=b"own", kind="tick", start_us=0,
            attributes={"filler": "x" * 9_000},
        )  # fmt: skip
        await answers.feeds.append(own)
    kept.replace(index)

    async with holding(joined) as answers:
        answer = await checked(answers)
        counts = await answers.status(Surroundings())

    assert "index-differs" not in codes(answer)
    assert (counts["records"], counts["bundles"]) == (answer["records"], answer["bundles"])


async def test_a_torn_tail_that_nobody_relied_on_is_no_finding(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        await answers.index.catch_up()
    with segment_of(joined[0].journal).open("ab") as file:
        file.write(b"torn" * 9)

    answer = await answer_offline(joined[0], "GET", "/check", {})

    assert answer["ok"]
    assert answer["tail_cut_bytes"] == 36


async def test_what_was_damaged_and_came_again_is_wrong_no_more(joined: Joined) -> None:
    bundles = a_job()[1]
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
    flip(joined[0], b"job.accepted")

    async with holding(joined, *bundles) as answers:
        answer = await checked(answers)

    assert answer["ok"]
    assert answer["damaged_bytes"] == answer["healed_bytes"] > 0


async def test_damage_that_healed_is_told_once_and_is_no_damage_any_more(joined: Joined) -> None:
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
        flip(joined[0], b"job.run")
        found = await checked(answers)
        await answers.feeds.add_all(bundles)
        unsettled = await checked(answers)
        await answers.feeds.append(of_ours(answers, 1))
        await answers.feeds.cut_all()
        healed = await checked(answers)
        after = await checked(answers)
        lineage = await answers.lineage(str(job.output))
        root = answers.feeds.state_root()
    async with holding(joined) as answers:
        again = await checked(answers)
        damage = answers.journal.damage

        assert answers.feeds.state_root() == root

    assert (found["damaged_bytes"] > 0, found["healed_bytes"]) == (True, 0)
    assert unsettled["healed_bytes"] == 0  # for all that the journal says, a signature was there
    assert healed["healed_bytes"] == found["damaged_bytes"]
    assert (after["damaged_bytes"], after["healed_bytes"], after["ok"]) == (0, 0, True)
    assert all(record["verified"] for record in lineage["records"])
    assert (again["damaged_bytes"], again["ok"], damage) == (0, True, [])


async def test_damage_with_our_latest_signature_is_not_forgotten(joined: Joined) -> None:
    """Whoever forgot it would sign that range once more, and its feed would fork."""
    async with holding(joined) as answers:
        own = answers.feeds.key.public
        await answers.feeds.append(of_ours(answers, 1))
        await answers.feeds.cut_all()
        signed = answers.feeds.place
        await answers.feeds.add_all(a_job()[1])
        await answers.index.catch_up()
        [link] = answers.feeds.chains[own, signed[0]]
        rot.flip_at(joined[0].journal, link.offset + 30)
        answers.index.lost.clear()
        await answers.index.rebuild()  # and nobody knows any more what lay there
        first = await checked(answers)
        await answers.feeds.append(of_ours(answers, 2))
        await answers.feeds.cut_all()
        second = await checked(answers)
    async with holding(joined) as answers:
        await answers.feeds.cut_all()
        place, forks = answers.feeds.place, answers.feeds.forks

    assert (first["damaged_bytes"] > 0, first["healed_bytes"]) == (True, 0)
    assert second["healed_bytes"] == second["damaged_bytes"] > 0
    assert place > signed
    assert forks == {}


async def test_damage_behind_our_latest_signature_is_not_forgotten_before_the_feed_has_moved(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk it cannot move, and the next start must know that it has to."""
    async with holding(joined) as answers:
        own = answers.feeds.key.public
        for number in range(2):
            await answers.feeds.append(of_ours(answers, number))
            await answers.feeds.cut_all()
        signed = answers.feeds.place
        rotten = answers.feeds.settled_at + 30
        await answers.feeds.add_all(a_job()[1])  # so that it is damage, and no torn tail
    rot.flip_at(joined[0].journal, rotten)
    joined[0].index.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("peer.segment.write_all", full)
        async with holding(joined) as answers:
            await trio.testing.wait_all_tasks_blocked()
            patch.undo()  # somebody frees space, and asks before anything is signed
            first = await checked(answers)
    async with holding(joined) as answers:
        await answers.feeds.append(of_ours(answers, 2))
        await answers.feeds.cut_all()
        epochs = [link.next_sequence for link in answers.feeds.chains[own, signed[0]]]
        place = answers.feeds.place

    assert (first["damaged_bytes"] > 0, first["healed_bytes"]) == (True, 0)
    assert epochs == [1]
    assert place > signed


async def test_damage_whose_index_is_gone_shows_as_a_hole_and_a_missing_parent(
    joined: Joined,
) -> None:
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
    flip(joined[0], b"job.run")
    joined[0].index.unlink()

    answer = await answer_offline(joined[0], "GET", "/check", {})

    hole, missing = answer["findings"]
    assert (hole["code"], hole["feed"], hole["next_sequence"]) == ("hole", WORKER.peer_id, 4)
    assert hole["fetch_from"] == [WORKER.peer_id]
    assert (missing["code"], missing["cid"]) == ("missing", str(job.run))


async def test_a_hole_in_a_feed_is_named(joined: Joined) -> None:
    author = Author(WORKER)
    for _ in range(3):
        author.add("tick")
        author.cut()

    async with holding(joined, author.bundles[0], author.bundles[2]) as answers:
        answer = await checked(answers, OTHER.peer_id)

    [finding] = answer["findings"]
    assert (finding["code"], finding["first_sequence"], finding["next_sequence"]) == ("hole", 1, 2)
    assert finding["fetch_from"] == [WORKER.peer_id, OTHER.peer_id]


async def test_a_missing_parent_is_named_with_the_worker_that_has_it(joined: Joined) -> None:
    worker, submitter = Author(WORKER), Author(SUBMITTER)
    run = worker.add("job.run")
    submitter.add("job.accepted", informed_by=(run,), attributes={"worker": worker.key.peer_id})

    async with holding(joined, submitter.cut()) as answers:
        before = await checked(answers)
        await answers.feeds.add(worker.cut())
        after = await checked(answers)

    [finding] = before["findings"]
    assert (finding["code"], finding["cid"]) == ("missing", str(run))
    assert finding["fetch_from"] == [WORKER.peer_id]
    assert after["ok"]


async def test_a_signature_that_does_not_hold_is_found_though_every_digest_does(
    joined: Joined,
) -> None:
    author = Author(WORKER)
    author.add("tick")
    forged = bytearray(author.cut().encode())
    at = forged.index(author.bundles[0].signature)
    forged[at] ^= 0x01

    async with holding(joined) as answers:
        await answers.journal.append(Entry.BUNDLE, bytes(forged))
        answer = await checked(answers)

    [finding] = answer["findings"]
    assert finding["code"] == "bad-entry"
    assert "invalid signature" in finding["message"]


async def test_a_fork_is_named(joined: Joined) -> None:
    one, other = Author(WORKER), Author(WORKER)
    one.add("tick")
    other.add("tock")

    async with holding(joined, one.cut(), other.cut()) as answers:
        answer = await checked(answers)

    assert codes(answer) == ["fork"]
    assert answer["findings"][0]["feed"] == WORKER.peer_id


async def test_what_another_aggregator_acknowledged_and_we_lost_can_be_fetched_there(
    joined: Joined,
) -> None:
    author = Author(WORKER)
    author.add("tick")
    ack = SignedAck.sign(OTHER, [AckEntry(WORKER.public, 1, 5)], 1)

    async with holding(joined, author.cut()) as answers:
        await answers.journal.append(Entry.ACK, ack.encode())
        answer = await checked(answers)

    [finding] = answer["findings"]
    assert (finding["code"], finding["first_sequence"], finding["next_sequence"]) == (
        "behind-ack",
        1,
        5,
    )
    assert finding["fetch_from"] == [WORKER.peer_id, OTHER.peer_id]


@pytest.mark.parametrize("is_journalled", [False, True])
async def test_nobody_acknowledges_what_we_have_not_signed(
    joined: Joined, is_journalled: bool
) -> None:
    async with holding(joined) as answers:
        await answers.feeds.append(of_ours(answers, 1))
        await answers.feeds.cut_all()
        own, epoch = answers.feeds.key.public, answers.feeds.epoch
        entries = [AckEntry(own, epoch, 1), AckEntry(own, epoch, 1 << 62)]
        ack = SignedAck.sign(OTHER, [*entries, AckEntry(own, epoch + 1, 9)], 1)
        if is_journalled:
            await answers.journal.append(Entry.ACK, ack.encode())
        else:
            await answers.feeds.acknowledge(ack)
        answer = await checked(answers)

    assert answer["findings"] == []


async def test_an_index_that_lacks_rows_is_found_and_a_rebuild_mends_it(joined: Joined) -> None:
    async with holding(joined, *a_job()[1]) as answers:
        await answers.index.catch_up()
        await answers.index.ask(
            lambda store: store._tables.run("DELETE FROM edges WHERE role = 'model'")
        )
        before = await checked(answers)
        await answers.rebuild()
        after = await checked(answers)

    assert codes(before) == ["index-differs"]
    assert "covey-aggregator rebuild" in before["findings"][0]["message"]
    assert after["ok"]


async def test_our_own_damaged_records_can_be_fetched_from_another_aggregator(
    tmp_path: Path,
) -> None:
    joined = aggregator_home(tmp_path, None, AGGREGATOR)
    async with holding(joined) as answers:
        public = answers.feeds.key.public
        for number in (b"1", b"2"):
            record = Record(author=public, nonce=number, kind=f"own{number.decode()}", start_us=0)
            await answers.feeds.append(record)
            await answers.feeds.cut_all()
        await answers.index.catch_up()
        flip(joined[0], b"own1")
        answer = await checked(answers, OTHER.peer_id)

        status = await answers.status(Surroundings())

    assert codes(answer) == ["damaged"]
    assert held_and_damaged(status) == (1, 1, 1, 1)
    [damaged] = answer["findings"]
    assert damaged["feed"] == joined[1].peer_id
    assert damaged["fetch_from"] == [OTHER.peer_id]


async def test_our_own_bundle_that_another_gave_back_is_wrong_no_more(joined: Joined) -> None:
    async with holding(joined) as answers:
        public = answers.feeds.key.public
        for number in (b"1", b"2"):
            for part in (b"a", b"b"):
                kind = f"own{number.decode()}{part.decode()}"
                await answers.feeds.append(
                    Record(author=public, nonce=number, kind=kind, start_us=0)
                )
            await answers.feeds.cut_all()
        copies = bundles_of(answers.feeds)
        await answers.index.catch_up()
        flip(joined[0], b"own1a")
        found = await checked(answers)
        await answers.feeds.add_all(copies)
        healed = await checked(answers)
        after = await checked(answers)

    assert codes(found) == ["damaged"]
    assert (codes(healed), codes(after)) == ([], [])
    assert healed["healed_bytes"] == found["damaged_bytes"]
    assert after["damaged_bytes"] == 0


@pytest.mark.parametrize(("listed", "code"), [(100, "body-absent"), (0, "missing")])
async def test_a_record_of_which_only_the_header_came_is_named_once_with_its_own_author(
    joined: Joined, monkeypatch: pytest.MonkeyPatch, listed: int, code: str
) -> None:
    worker, other = Author(WORKER), Author(SUBMITTER)
    run = worker.add("job.run")
    other.add("job.compared", informed_by=(run,))
    bare = worker.cut().with_records([b""])
    monkeypatch.setattr("aggregator.audit.MAX_SHOWN_ABSENT", listed)  # past it, it is only missing

    async with holding(joined, bare, other.cut()) as answers:
        answer = await checked(answers)

    [finding] = answer["findings"]
    assert (finding["code"], finding["cid"]) == (code, str(run))
    assert finding["fetch_from"] == [WORKER.peer_id]


async def test_of_what_is_missing_every_feed_whose_header_names_it_is_a_source(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = Author(WORKER), Author(SUBMITTER)
    run = worker.add("job.run")
    other.add("job.compared", informed_by=(run,))
    bare = worker.cut().with_records([b""])
    strangers = [key_of(number) for number in (33, 34, 35)]
    named = [
        sign_bundle(stranger, Place(1, 0, None), [worker.records[0].encode()], 1)
        for stranger in strangers
    ]
    monkeypatch.setattr("aggregator.audit.MAX_SHOWN_ABSENT", 0)

    async with holding(
        joined, bare, other.cut(), *(each.with_records([b""]) for each in named)
    ) as answers:
        answer = await checked(answers)

    [finding] = answer["findings"]
    sources = {WORKER.peer_id, *(stranger.peer_id for stranger in strangers)}
    assert set(finding["fetch_from"]) == sources


async def test_check_and_status_count_the_same(joined: Joined) -> None:
    _, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        for number in (1, 2):
            await answers.feeds.append(of_ours(answers, number))
            await answers.feeds.cut_all()
        own = [b for b in bundles_of(answers.feeds) if b.feed == answers.feeds.key.peer_id]
        await answers.index.catch_up()
        counts = [await counted_by_both(answers)]
        flip(joined[0], own[0].records[0])
        flip(joined[0], b"job.run")
        await checked(answers)
        counts.append(await counted_by_both(answers))
        await answers.feeds.add_all([*bundles, *own])  # ours has two places now
        counts += [await counted_by_both(answers), await counted_by_both(answers)]

    assert counts == [((10, 6), (10, 6)), ((5, 4), (5, 4)), *2 * [((10, 6), (10, 6))]]


async def test_one_thing_is_not_called_things(joined: Joined) -> None:
    author = Author(WORKER)
    author.report(a_report(time_us=1))
    async with holding(joined, author.cut()) as answers:
        await answers.intake.catch_up()
        status = status_told(await answers.status(Surroundings()))
        check = check_told(await checked(answers))

    assert "1 report, 1 group, 0 issues" in status
    assert check.startswith("1 record in 1 bundle of 1 feed, ")


@pytest.mark.parametrize("is_deep", [False, True])
async def test_a_record_whose_bytes_are_damaged_is_wrong_once(
    joined: Joined, is_deep: bool
) -> None:
    author = Author(WORKER)
    record = author.add("tick")
    async with holding(joined, author.cut()) as answers:
        await answers.index.catch_up()
        flip(joined[0], b"tick")
        verdict = await answers.verify(str(record), is_deep, joined[1].peer_id)

    assert verdict["faults"] == [f"record {record}: its signed bytes are damaged or not here"]
    assert not verdict["ok"]


async def test_what_only_damaged_records_name_is_no_second_fault(joined: Joined) -> None:
    job, bundles = a_job()
    async with holding(joined, *bundles) as answers:
        await answers.index.catch_up()
        flip(joined[0], b"job.run")
        flip(joined[0], b"job.accepted")
        verdict = await answers.verify(str(job.output), False)

    damaged = {job.run, job.accepted}
    assert sorted(verdict["faults"]) == sorted(
        f"record {each}: its signed bytes are damaged or not here" for each in damaged
    )


async def test_a_record_that_is_not_signed_yet_is_said_to_be_that_and_nothing_else(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        record = await answers.feeds.append(of_ours(answers, 1))
        before = await answers.verify(str(record), True)
        await answers.feeds.cut_all()
        after = await answers.verify(str(record), True)

    assert before["faults"] == [
        f"record {record}: it is not signed yet; records are signed within 10 s"
    ]
    assert (before["ok"], after["ok"]) == (False, True)
