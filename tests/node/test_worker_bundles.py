"""A submitter keeps the records of the workers of its jobs, so that lineage outlives them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import trio
from trio.testing import MockClock

from aggregator.explain import explain
from aggregator.lineage import trace
from aggregator.store import Store
from node.worker_bundles import ROUND_S, WorkerBundles
from peer.rows import read_batch
from peer.tables import IN_MEMORY
from protocols.cid import CID
from protocols.feed import ABSENT, Bundle
from protocols.limits import MAX_SOUGHT, SEEK_AFTER_S, SEEK_RETRY_S_MIN
from protocols.record import Record
from protocols.roster import shown_record
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import START_US, bundles_of, chain_of, key, record
from tests.support.members import TestMesh

WORKING = replace(OPEN, may_pull=lambda _: False)
"""As a node that meets no aggregator: its peers may ask by name only."""
INPUT, OUTPUT, MODEL = (CID.of(name) for name in (b"input", b"output", b"model"))


def registered(worker: Peer) -> Record:
    return Record(
        author=worker.key.public,
        nonce=b"",
        start_us=0,
        kind="model.registered",
        generated=((MODEL, "model"),),
    )


def hardware(worker: Peer) -> Record:
    return Record(author=worker.key.public, nonce=b"", start_us=0, kind="hardware")


def ran(worker: Peer) -> Record:
    return Record(
        author=worker.key.public,
        nonce=b"1",
        kind="job.run",
        used=((MODEL, "model"), (INPUT, "input")),
        hardware=CID.of(hardware(worker).encode()),
        generated=((OUTPUT, "output"),),
        start_us=START_US,
        attributes={"job_id": b"j"},
    )


def accepted(submitter: Peer, submitted: CID, run: CID) -> Record:
    return Record(
        author=submitter.key.public,
        nonce=b"3",
        kind="job.accepted",
        used=((OUTPUT, "output"),),
        informed_by=(submitted, run),
        start_us=START_US,
        attributes={"job_id": b"j"},
    )


def submitted(submitter: Peer) -> Record:
    return Record(
        author=submitter.key.public,
        nonce=b"2",
        kind="job.submitted",
        generated=((INPUT, "input"),),
        start_us=START_US,
        attributes={"job_id": b"j"},
    )


async def do_a_job(worker: Peer, submitter: Peer, bundles: WorkerBundles) -> CID:
    """Record a job as both sides do, and return the name of the worker's record; what it stands on
    is in an earlier bundle.
    """
    for block in (hardware(worker), registered(worker)):
        await worker.feeds.append(block)
    await worker.write(*range(50))
    asked = await submitter.feeds.append(submitted(submitter))
    run = await worker.feeds.append(ran(worker))
    await submitter.feeds.append(accepted(submitter, asked, run))
    bundles.named(worker.transport.peer_id, run)
    return run


async def test_lineage_is_complete_although_its_worker_died_before_an_aggregator_saw_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peer(2, WORKING) as submitter, trio.open_nursery() as nursery:
        bundles = WorkerBundles(submitter.transport.peer_id, submitter.exchange.seek)
        await nursery.start(bundles.run)
        async with meeting.peer(1, WORKING) as worker:
            await meet(submitter, worker)
            await do_a_job(worker, submitter, bundles)
            await until(lambda: bundles.status()["found"] == 3, within_s=SEEK_AFTER_S + 2 * ROUND_S)
        async with meeting.peer(3, FOLLOWING) as aggregator:
            submitter.exchange._policy = OPEN
            await meet(aggregator, submitter)
            await until(lambda: aggregator.feeds.state_root() == submitter.feeds.state_root())
            found = lineage_at(aggregator)
        nursery.cancel_scope.cancel()

    assert found["missing"] == []
    assert {each["kind"] for each in found["records"]} == {
        "job.run",
        "job.submitted",
        "job.accepted",
        "hardware",
        "model.registered",
    }


async def test_a_worker_that_is_away_is_asked_when_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    meeting = Meeting(tmp_path)
    async with meeting.peer(2) as submitter, trio.open_nursery() as nursery:
        bundles = WorkerBundles(submitter.transport.peer_id, submitter.exchange.seek)
        await nursery.start(bundles.run)
        async with meeting.peer(1, WORKING) as worker:
            await meet(submitter, worker)
            await do_a_job(worker, submitter, bundles)
        await trio.sleep(2 * SEEK_AFTER_S)
        tried = bundles.status()["tries"]
        async with meeting.peer(1, WORKING) as worker:
            await meet(submitter, worker)
            await until(lambda: bundles.status()["found"] == 3, within_s=2 * SEEK_RETRY_S_MIN)
        nursery.cancel_scope.cancel()

    assert tried == 1


async def test_only_the_bundles_of_ones_own_jobs_are_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with (
        Meeting(tmp_path).peers(worker=WORKING, submitter=OPEN) as (worker, submitter),
        trio.open_nursery() as nursery,
    ):
        bundles = WorkerBundles(submitter.transport.peer_id, submitter.exchange.seek)
        await nursery.start(bundles.run)
        await meet(submitter, worker)
        await worker.write(*range(100, 110))
        await worker.feeds.add_all(chain_of(key(7), 3))
        run = await do_a_job(worker, submitter, bundles)
        await until(lambda: bundles.status()["found"] == 3)
        await worker.write(*range(110, 120))
        await trio.sleep(600)
        nursery.cancel_scope.cancel()

        theirs = [
            each for each in bundles_of(submitter.feeds) if each.feed != submitter.key.peer_id
        ]
        assert [run.digest in each.header.digests for each in theirs] == [False, True]
        assert len(bundles_of(worker.feeds)) > 5


async def test_many_jobs_share_the_questions(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with (
        Meeting(tmp_path).peers(worker=WORKING, submitter=OPEN) as (worker, submitter),
        trio.open_nursery() as nursery,
    ):
        asked: list[int] = []

        async def seek(peer: str, digests: Sequence[bytes]) -> list[Bundle]:
            asked.append(len(digests))
            return await submitter.exchange.seek(peer, digests)

        bundles = WorkerBundles(submitter.transport.peer_id, seek)
        await nursery.start(bundles.run)
        await meet(submitter, worker)
        for number in range(10 * MAX_SOUGHT):
            cid = await worker.feeds.append(record(worker.key, number))
            bundles.named(worker.transport.peer_id, cid)
        await until(lambda: bundles.status()["found"] == 10 * MAX_SOUGHT)
        nursery.cancel_scope.cancel()

    assert len(asked) == 1
    assert asked[0] <= MAX_SOUGHT


async def test_the_workers_certificate_is_fetched_with_the_first_job(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with (
        Meeting(tmp_path).peers(worker=WORKING, submitter=OPEN) as (worker, submitter),
        trio.open_nursery() as nursery,
    ):
        shown = shown_record(TestMesh().membership(worker.key))
        await worker.feeds.append(shown)
        await worker.write(*range(70))  # the job is in another bundle
        named = CID.of(shown.encode())
        peer_id, seek = submitter.transport.peer_id, submitter.exchange.seek
        bundles = WorkerBundles(peer_id, seek, lambda _peer: named)
        await nursery.start(bundles.run)
        await meet(submitter, worker)
        await do_a_job(worker, submitter, bundles)
        await until(lambda: bundles.status()["found"] == 4)
        bundles.named(worker.transport.peer_id, CID.of(b"another job's"))
        sought = bundles.status()["sought"]
        nursery.cancel_scope.cancel()

        held = [digest for each in bundles_of(submitter.feeds) for digest in each.header.digests]
        assert named.digest in held
        assert sought == 1, "the other job's record, and not the certificate again"


async def test_ones_own_records_are_not_sought(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(node=OPEN) as (node,):
        bundles = WorkerBundles(node.transport.peer_id, node.exchange.seek)
        await do_a_job(node, node, bundles)

        assert bundles.status()["sought"] == 0


def lineage_at(aggregator: Peer) -> dict[str, list[dict[str, str]]]:
    """What ``covey-aggregator lineage`` answers from this journal."""
    journal = aggregator.journal
    with closing(Store.open(IN_MEMORY)) as store:
        store.insert(read_batch(journal.scan(0), journal.size, aggregator.key.public))
        closure = trace(store, OUTPUT)
        return explain(closure, {})


async def test_a_record_whose_body_did_not_come_is_sought_on(autojump_clock: MockClock) -> None:
    (whole,) = chain_of(key(7), 1)
    headers_only = whole.with_records(ABSENT for _ in whole.records)

    async def seek(_peer: str, _digests: Sequence[bytes]) -> list[Bundle]:
        return [headers_only]

    bundles = WorkerBundles(key(8).peer_id, seek)
    async with trio.open_nursery() as nursery:
        await nursery.start(bundles.run)
        bundles.named(key(7).peer_id, CID.of_digest(whole.header.digests[0]))
        await trio.sleep(2 * SEEK_AFTER_S)
        nursery.cancel_scope.cancel()

    status = bundles.status()
    assert (status["sought"], status["found"], status["tries"]) == (1, 0, 1)
