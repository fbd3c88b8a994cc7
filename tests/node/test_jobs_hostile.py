"""Peers that lie, stall or send garbage: what they do costs them the job and nobody else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.errors import NoWorkerError
from protocols.cid import CID
from protocols.job import (
    CODEC,
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    Input,
    Lease,
    Message,
    Offer,
    Refuse,
    Release,
    Renew,
)
from protocols.limits import LEASE_TTL_S, MAX_JOBS_PER_SUBMITTER, MAX_SESSIONS, MAX_STRAY_RESULTS
from protocols.membership import SESSION_PROTOCOL
from protocols.pieces import Outgoing
from protocols.transport import Stream
from tests.support.hostile import Script, a_lease, answers, hostile, raw_session, terms
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until


def wrong_commitment(message: Message) -> Sequence[Message]:
    if isinstance(message, Offer):
        return [a_lease(message)]
    if isinstance(message, Input):
        (piece,) = Outgoing.cut(b"o" * 16, b"garbage").pieces()
        cid = bytes(CID.of(b"x"))
        chunk = Chunk(message.job_id, message.fence, 0, piece.body, piece.digest)
        return [chunk, Done(message.job_id, message.fence, cid, 7, cid)]
    return []


def result_without_output(message: Message) -> Sequence[Message]:
    if isinstance(message, Offer):
        return [a_lease(message)]
    if isinstance(message, Accept):
        cid = bytes(CID.of(b"x"))
        return [Done(message.job_id, message.fence, cid, 7, cid)]
    return []


def result_without_lease(message: Message) -> Sequence[Message]:
    cid = bytes(CID.of(b"x"))
    return [Done(message.job_id, message.fence, cid, 0, cid)] if isinstance(message, Offer) else []


@pytest.mark.parametrize("script", [wrong_commitment, result_without_output, result_without_lease])
async def test_a_worker_that_lies_about_its_result_loses_the_job_and_is_reported(
    script: Script, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    liar, told = hostile(mesh, script)
    honest = mesh.add("worker")

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert result.worker == honest.peer_id
    assert result.output == b"SOME TEXT"
    assert any(isinstance(message, Offer) for message in told)
    (report,) = submitter.recorder.reports
    assert report.exceptions[-1].type == "RemoteProtocolError"
    assert liar.peer_id != honest.peer_id


async def test_garbage_ends_the_session_and_the_job_goes_elsewhere(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    noisy = mesh.add("worker", speed=1e8)
    honest = mesh.add("worker")

    async def handle(stream: Stream) -> None:
        await stream.send(b"\xff garbage")
        await trio.sleep_forever()

    noisy.transport.serve(SESSION_PROTOCOL, handle)

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert result.worker == honest.peer_id
    assert len(submitter.recorder.reports) == 1


async def test_a_worker_that_leases_and_stays_silent_loses_the_job_with_its_lease(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    _, told = hostile(mesh, lambda m: [a_lease(m)] if isinstance(m, Offer) else [])
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=2.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec())
        assert LEASE_TTL_S <= trio.current_time() - began_at <= LEASE_TTL_S + 2
        await until(lambda: any(isinstance(message, Cancel) for message in told))

    assert result.worker == honest.peer_id


async def test_a_worker_that_renews_for_ever_is_stopped_by_the_budget(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    def renew(message: Message) -> Sequence[Message]:
        if isinstance(message, Offer):
            return [a_lease(message)]
        if isinstance(message, Accept):
            return [Renew(message.job_id, message.fence, 1, 3)] * 5
        return []

    _, told = hostile(mesh, renew)

    async with mesh.running():
        with pytest.raises(Exception, match="time ran out"):
            await submitter.submitter.run(spec(budget_ms=10_000))
        await until(lambda: any(isinstance(message, Cancel) for message in told))


async def test_a_worker_that_never_answers_is_passed_over(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mute, _ = hostile(mesh, lambda _: [])

    async with mesh.running():
        with pytest.raises(NoWorkerError, match="no-answer"):
            await submitter.submitter.run(spec())

    assert mute.speed


async def test_outcomes_of_jobs_that_are_nobodys_are_acknowledged_and_ignored(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    strange = b"?" * 16

    def refuse_and_tell(message: Message) -> Sequence[Message]:
        if not isinstance(message, Offer):
            return []
        return [
            Lease(strange, 1, 0, 15_000),
            Renew(strange, 1, 0, 1),
            Failed(strange, 1, "it-failed", "", True),
            Chunk(strange, 1, 0, b"x", bytes(32)),
            Refuse(message.job_id, message.fence, "busy", "no"),
        ]

    _, told = hostile(mesh, refuse_and_tell)

    async with mesh.running():
        with pytest.raises(NoWorkerError):
            await submitter.submitter.run(spec())
        await until(lambda: Ack(strange, 1) in told)

    assert Release(strange, 1) in told
    assert Cancel(strange, 1) in told
    assert not submitter.recorder.reports


@pytest.mark.parametrize("is_repeated", [True, False])
async def test_results_of_jobs_that_have_ended_do_not_fill_the_journal(
    is_repeated: bool, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    ended = spec(1)
    cid = bytes(CID.of(b"x"))

    def flood(message: Message) -> Sequence[Message]:
        if not isinstance(message, Offer):
            return []
        return [Done(ended.job_id, 1 if is_repeated else n, cid, 0, cid) for n in range(1, 1_001)]

    flooder, told = hostile(mesh, flood)
    honest = mesh.add("worker")

    async with mesh.running():
        await submitter.submitter.run(replace(ended, peer=honest.peer_id))
        with pytest.raises(Exception, match="no-answer"):
            await submitter.submitter.run(spec(2, peer=flooder.peer_id))
        await until(lambda: sum(isinstance(message, Ack) for message in told) == 1_000)
        result = await submitter.submitter.run(spec(3, peer=honest.peer_id))

    assert len(submitter.recorder.of_kind("job.late")) <= MAX_STRAY_RESULTS
    assert result.output == b"SOME TEXT"


# Submitters


async def test_a_submitter_whose_input_is_not_what_it_committed_to_is_refused(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    job = terms(1)
    (piece,) = Outgoing.cut(b"i" * 16, b"TEXT").pieces()

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        await stream.send(CODEC.encode([job.offer(1, 60_000)]))
        await answers(stream, 1)
        wrong = Input(job.job_id, 1, 0, piece.body, piece.digest)
        await stream.send(CODEC.encode([Accept(job.job_id, 1), wrong]))
        (refuse,) = await answers(stream, 1)

    assert isinstance(refuse, Refuse)
    assert refuse.code == "wrong-commitment"
    assert not worker.runners.requests


async def test_a_submitter_that_opens_a_thousand_jobs_gets_its_share_and_others_theirs(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    greedy, modest, worker = mesh.add("submitter"), mesh.add("submitter"), mesh.add("worker")

    async with mesh.running():
        stream = await raw_session(greedy, worker)
        await stream.send(CODEC.encode([terms(n).offer(1, 60_000) for n in range(1_000)]))
        got = await answers(stream, 1_000)
        result = await modest.submitter.run(spec())

    assert sum(isinstance(message, Lease) for message in got) == MAX_JOBS_PER_SUBMITTER
    assert all(m.code == "busy" for m in got if isinstance(m, Refuse))
    assert result.output == b"SOME TEXT"


async def test_a_submitter_that_vanishes_leaves_nothing_running(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(hold=True))
    job = terms(1)

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        inputs = [
            Input(job.job_id, 1, p.index, p.body, p.digest)
            for p in Outgoing.cut(b"i" * 16, b"text").pieces()
        ]
        await stream.send(CODEC.encode([job.offer(1, 600_000), Accept(job.job_id, 1), *inputs]))
        await until(lambda: worker.runners.running == 1)
        await stream.reset()
        await until(lambda: worker.runners.cancelled == 1, within_s=60)

    assert worker.worker.unfinished == 0


async def test_who_may_not_submit_gets_no_session(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    observer, worker = mesh.add("observer"), mesh.add("worker")

    async with mesh.running():
        with pytest.raises(NoWorkerError, match=r"unreachable \(.*(lost|reset)"):
            await observer.submitter.run(spec())

    assert not worker.runners.requests


async def test_idle_sessions_make_room_for_new_ones(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for _ in range(MAX_SESSIONS + 3):
        mesh.add("worker")

    async with mesh.running():
        for number, node in enumerate(mesh.nodes[1:], 1):
            await submitter.submitter.run(spec(number, peer=node.peer_id))
            assert submitter.sessions.open_count() <= MAX_SESSIONS
        again = await submitter.submitter.run(spec(999, peer=mesh.nodes[1].peer_id))

    assert again.output == b"SOME TEXT"
