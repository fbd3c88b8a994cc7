"""Peers that keep others waiting, or say what is not theirs to say: each is left behind after a
time that has a bound, and the others go on.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.link import body_bytes
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
    Renew,
    SessionHello,
)
from protocols.limits import (
    BULK_CHUNK_BYTES,
    FIRST_PROGRESS_S,
    LEASE_RENEW_S,
    LEASE_TTL_S,
    MAX_JOBS_PER_SUBMITTER,
    MAX_QUEUED_PIECES,
    MAX_STRAY_RESULTS,
    ORPHAN_S,
    SEND_STALL_S,
    STALL_S_MIN,
)
from protocols.membership import SESSION_PROTOCOL
from protocols.pieces import Outgoing
from protocols.taking import run_of, worker_of
from protocols.transport import Stream
from tests.support.hostile import a_lease, answers, hostile, inputs, raw_session, terms
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

SLACK_S = 3.0


def kinds(node: JobNode) -> list[str]:
    return [record.kind for record in node.recorder.records]


def talkative(
    mesh: JobMesh, on_accept: Sequence[Callable[[Accept], Message]], *, eta_ms: int = 0
) -> tuple[JobNode, list[Message]]:
    """A worker that leases, says something once, then renews for ever until it is cancelled."""
    node = mesh.add("worker", speed=1e8)
    told: list[Message] = []

    async def renew(stream: Stream, job: Accept) -> None:
        while not any(isinstance(m, Cancel) and m.job_id == job.job_id for m in told):
            await stream.send(CODEC.encode([Renew(job.job_id, job.fence, 0, 3)]))
            await trio.sleep(LEASE_RENEW_S)

    async def handle(stream: Stream) -> None:
        await stream.send(CODEC.encode([SessionHello(1)]))
        async with trio.open_nursery() as nursery:
            while (frame := await stream.receive()) is not None:
                for message in CODEC.decode(frame):
                    told.append(message)
                    if isinstance(message, Offer):
                        lease = Lease(message.job_id, message.fence, eta_ms, 15_000)
                        await stream.send(CODEC.encode([lease]))
                    if isinstance(message, Accept):
                        said = [make(message) for make in on_accept]
                        await stream.send(CODEC.encode([*said, Renew(*_of(message), 0, 3)]))
                        nursery.start_soon(renew, stream, message)

    node.transport.serve(SESSION_PROTOCOL, handle)
    node.directory.may = lambda *_: False  # type: ignore[method-assign]
    return node, told


def _of(message: Accept) -> tuple[bytes, int]:
    return message.job_id, message.fence


def first_chunk(message: Accept) -> Message:
    piece = next(iter(Outgoing.cut(b"o" * 16, b"").pieces()))
    body = b"the first of many"
    digest = next(iter(Outgoing.cut(bytes(16), body).pieces())).digest
    assert piece.index == 0
    return Chunk(message.job_id, message.fence, 0, body, digest)


@pytest.mark.parametrize(
    ("eta_ms", "within_s"), [(0, FIRST_PROGRESS_S), (1, STALL_S_MIN), (20_000, 60.0)]
)
async def test_a_worker_that_renews_for_ever_without_work_loses_the_job(
    eta_ms: int, within_s: float, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    idler, told = talkative(mesh, [], eta_ms=eta_ms)
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=50.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec(budget_ms=3_600_000))
        took_s = trio.current_time() - began_at
        await until(lambda: any(isinstance(message, Cancel) for message in told))

    assert result.worker == honest.peer_id
    assert within_s <= took_s <= within_s + SLACK_S
    (lost,) = [r for r in submitter.recorder.records if r.kind == "job.lost"]
    assert lost.attributes["worker"] == idler.peer_id
    assert lost.attributes["reason"] == f"it made no progress for {within_s:.0f} s"


async def test_a_worker_that_says_it_is_free_and_takes_every_job_delays_each_by_a_bounded_time(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    talkative(mesh, [], eta_ms=0)
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=50.0))
    workers: list[str] = []

    async def one(number: int) -> None:
        result = await submitter.submitter.run(spec(number, budget_ms=3_600_000))
        workers.append(result.worker)

    async with mesh.running():
        with trio.fail_after(FIRST_PROGRESS_S + SLACK_S + 60):
            async with trio.open_nursery() as nursery:
                for number in range(1, 9):
                    nursery.start_soon(one, number)

    assert workers == [honest.peer_id] * 8


async def test_a_worker_that_stalls_behind_its_first_chunk_loses_the_job(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    submitter.submitter._salts.of_output = lambda _: bytes(16)  # type: ignore[method-assign]
    talkative(mesh, [first_chunk])
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=5.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec(budget_ms=3_600_000))
        took_s = trio.current_time() - began_at

    assert (result.worker, result.output) == (honest.peer_id, b"SOME TEXT")
    assert STALL_S_MIN <= took_s <= STALL_S_MIN + SLACK_S


async def test_an_honest_worker_that_is_slow_and_moves_keeps_its_job(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=FakeRunnerPool(pace_s=100.0))

    async with mesh.running():
        result = await submitter.submitter.run(spec(items=5, budget_ms=3_600_000))

    assert result.attempts == 1


async def test_a_result_that_comes_after_its_lease_is_recorded_and_not_returned(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    def answer_when_it_is_over(message: Message) -> Sequence[Message]:
        if isinstance(message, Offer):
            return [a_lease(message)]
        if isinstance(message, Cancel):
            cid = bytes(CID.of(b"x"))
            return [Done(message.job_id, message.fence, cid, 0, cid)] * 3
        return []

    late, told = hostile(mesh, answer_when_it_is_over)
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=20.0, pace_s=2.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec())
        took_s = trio.current_time() - began_at
        await until(lambda: any(isinstance(message, Ack) for message in told))

    assert (result.worker, result.output) == (honest.peer_id, b"SOME TEXT")
    assert took_s >= LEASE_TTL_S
    (record,) = [r for r in submitter.recorder.records if r.kind == "job.late"]
    assert worker_of(record.kind, record.attributes) == late.peer_id
    assert run_of(record.informed_by) == CID.of(b"x")


async def test_garbage_after_the_lease_ends_the_session_and_the_job_goes_elsewhere(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    noisy = mesh.add("worker", speed=1e8)
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=5.0))

    async def handle(stream: Stream) -> None:
        await stream.send(CODEC.encode([SessionHello(1)]))
        while (frame := await stream.receive()) is not None:
            for message in CODEC.decode(frame):
                if isinstance(message, Offer):
                    await stream.send(CODEC.encode([a_lease(message)]))
                if isinstance(message, Accept):
                    await stream.send(b"\x81\x81\x18\xff")

    noisy.transport.serve(SESSION_PROTOCOL, handle)
    noisy.directory.may = lambda *_: False  # type: ignore[method-assign]

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert result.worker == honest.peer_id
    (report,) = submitter.recorder.reports
    assert "RemoteProtocolError" in [exception.type for exception in report.exceptions]


@pytest.mark.parametrize("ending", [Done, Failed])
async def test_an_outcome_of_a_job_that_another_worker_has_changes_nothing(
    ending: type, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    others = spec(7).job_id
    cid = bytes(CID.of(b"x"))

    def meddle(message: Message) -> Sequence[Message]:
        if not isinstance(message, Offer):
            return []
        if ending is Done:
            return [Done(others, 1, cid, 0, cid)] * 100
        return [Failed(others, 1, "it-failed", "", False), Lease(others, 1, 0, 15_000)]

    meddler, _ = hostile(mesh, meddle)
    honest = mesh.add("worker", runners=FakeRunnerPool(pace_s=2.0, estimate=6.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        result = None

        async def run_the_others() -> None:
            nonlocal result
            result = await submitter.submitter.run(spec(7, peer=honest.peer_id))

        nursery.start_soon(run_the_others)
        await until(lambda: honest.runners.running == 1)
        with pytest.raises(Exception, match="no-answer"):
            await submitter.submitter.run(spec(8, peer=meddler.peer_id))

    assert result is not None
    assert (result.worker, result.attempts) == (honest.peer_id, 1)
    assert len(submitter.recorder.reports) == (ending is Done), "once, however often it comes"


async def test_results_of_jobs_that_nobody_submitted_do_not_fill_the_journal(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    cid = bytes(CID.of(b"x"))

    def flood(message: Message) -> Sequence[Message]:
        if not isinstance(message, Offer):
            return []
        return [Done(n.to_bytes(16, "big"), 1, cid, 0, cid) for n in range(100, 1_100)]

    flooder, told = hostile(mesh, flood)
    honest = mesh.add("worker")

    async with mesh.running():
        with pytest.raises(Exception, match="no-answer"):
            await submitter.submitter.run(spec(1, peer=flooder.peer_id))
        await until(lambda: sum(isinstance(message, Ack) for message in told) == 1_000)
        result = await submitter.submitter.run(spec(2, peer=honest.peer_id))

    assert kinds(submitter).count("job.late") == MAX_STRAY_RESULTS
    assert result.output == b"SOME TEXT"


# Submitters


async def test_a_submitter_that_has_a_thousand_jobs_run_and_never_reads_loses_its_session(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    mute, modest = mesh.add("submitter"), mesh.add("submitter")
    # small ones for the other: large outputs are looked at in a thread, for which no clock waits
    runners = FakeRunnerPool(output_of=lambda text: text * (1 if text == spec().input else 20_000))
    worker = mesh.add("worker", runners=runners)

    async with mesh.running():
        stream = await raw_session(mute, worker)
        for number in range(1_000):
            job = terms(number)
            messages = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job)]
            await stream.send(CODEC.encode(messages))
        began_at = trio.current_time()
        result = await modest.submitter.run(spec())
        took_s = trio.current_time() - began_at
        await until(lambda: worker.worker.unfinished == 0, within_s=600)
        await until(
            lambda: worker.sessions.current(mute.peer_id) is None,
            within_s=SEND_STALL_S + ORPHAN_S,
        )
        again = await modest.submitter.run(spec(2))

    assert took_s < 1
    assert result.output == again.output
    assert worker.worker.unfinished == 0


async def test_an_output_that_grows_waits_at_the_worker_for_a_submitter_that_does_not_read(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    mute = mesh.add("submitter")
    large = bytes(range(256)) * (64 << 10)
    runners = FakeRunnerPool(emits=True, pace_s=0.01, output_of=lambda _: large)
    worker = mesh.add("worker", runners=runners)
    job = msgspec.structs.replace(terms(1), items=256)

    async with mesh.running():
        stream = await raw_session(mute, worker)
        messages = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job)]
        await stream.send(CODEC.encode(messages))
        await until(lambda: runners.finished == 1)
        link = worker.sessions.current(mute.peer_id)
        assert link is not None
        queued = sum(map(body_bytes, [*link._waiting, *link._pieces]))
        got: list[Message] = []
        while not isinstance(got[-1] if got else None, Done):
            got += await answers(stream, 1)

    chunks = [message for message in got if isinstance(message, Chunk)]
    assert queued <= MAX_QUEUED_PIECES * BULK_CHUNK_BYTES
    assert b"".join(chunk.body for chunk in chunks) == large
    assert [chunk.index for chunk in chunks] == list(range(256))


async def test_an_outcome_that_is_asked_for_again_and_again_is_sent_by_one_task(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    mute = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=lambda _: bytes(8 << 20)))
    job = terms(1)

    async with mesh.running():
        stream = await raw_session(mute, worker)
        messages = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job)]
        await stream.send(CODEC.encode(messages))
        await until(lambda: worker.runners.finished == 1)
        for fence in range(2, 102):
            again = [job.offer(fence, 600_000), *[Accept(job.job_id, fence)] * 3]
            await stream.send(CODEC.encode(again))
        nursery = worker.worker._nursery
        assert nursery is not None
        await wait_all_tasks_blocked()
        tasks = len(nursery.child_tasks)
        got: list[Message] = []
        while not isinstance(got[-1] if got else None, Done):
            got += await answers(stream, 1)

    latest = [m for m in got if isinstance(m, Chunk) and m.fence == 101]
    assert tasks == 1
    assert sum(len(chunk.body) for chunk in latest) == 8 << 20


async def test_a_submitter_that_vanishes_while_its_input_comes_in_frees_its_place(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        for number in range(MAX_JOBS_PER_SUBMITTER):
            job = terms(number)
            await stream.send(CODEC.encode([job.offer(1, 600_000), Accept(job.job_id, 1)]))
        await answers(stream, MAX_JOBS_PER_SUBMITTER)
        assert worker.worker.unfinished == MAX_JOBS_PER_SUBMITTER
        await stream.reset()
        await until(lambda: worker.worker.unfinished == 0)
        result = await submitter.submitter.run(spec(99_999))

    assert result.output == b"SOME TEXT"
    assert len(worker.runners.requests) == 1


async def test_a_submitter_that_stops_in_the_middle_of_its_input_is_told_and_frees_its_place(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    content = bytes(100_000)
    job = terms(1, content)
    first, _ = inputs(job, content)
    assert isinstance(first, Input)

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        await stream.send(CODEC.encode([job.offer(1, 600_000), Accept(job.job_id, 1), first]))
        got = await answers(stream, 1 + math.floor(LEASE_TTL_S / LEASE_RENEW_S))

    assert got[-1].code == "lease-over"  # type: ignore[union-attr]
    assert worker.worker.unfinished == 0
