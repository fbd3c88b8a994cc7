"""Peers that stall, lie about time or hoard: the budgets and limits that bound what they cost."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from node.job import JobResult
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import Refused
from protocols.job import (
    CODEC,
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
    Renew,
    Terms,
)
from protocols.limits import (
    BULK_CHUNK_BYTES,
    CHUNK_WITHIN_S,
    FAIR_QUANTUM_S,
    LEASE_TTL_S,
    MAX_JOBS_PER_SUBMITTER,
    MAX_OUTCOMES,
    PROGRESS_WITHIN_S,
    SEND_STALL_S,
    STREAM_WINDOW_BYTES,
    UNMEASURED_PROGRESS_S,
)
from protocols.pieces import Outgoing
from protocols.transport import Stream
from tests.support.hostile import (
    Script,
    a_lease,
    answers,
    hostile,
    raw_session,
    start_of,
    terms,
)
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeModels, FakeRunnerChild, FakeRunnerPool, model_of
from tests.support.transports import until

MB = 1 << 20

# Workers


def leases(*, eta_ms: int = 0, is_measured: bool = True, chunk: bool = False) -> Script:
    """Take every job; if told to, begin to answer, and say no more."""
    salts: dict[bytes, bytes] = {}

    def script(message: Message) -> Sequence[Message]:
        if isinstance(message, Offer):
            salts[message.job_id] = message.output_salt
            return [Lease(message.job_id, message.fence, eta_ms, 15_000, True, is_measured)]
        if chunk and isinstance(message, Input):
            (piece,) = Outgoing.cut(salts[message.job_id], b"some").pieces()
            return [Chunk(message.job_id, message.fence, 0, piece.body, piece.digest)]
        return []

    return script


@pytest.mark.parametrize(
    ("script", "within_s"),
    [
        (leases(), PROGRESS_WITHIN_S),
        (leases(is_measured=False), UNMEASURED_PROGRESS_S),
        (leases(chunk=True), CHUNK_WITHIN_S),
        (leases(eta_ms=3_600_000, chunk=True), CHUNK_WITHIN_S),
    ],
    ids=["always at once", "never measured", "one piece", "one piece of a long job"],
)
async def test_a_worker_that_renews_for_ever_without_progress_loses_the_job(
    script: Script, within_s: float, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    _, told = hostile(mesh, script, renews=True)
    honest = mesh.add("worker", runners=FakeRunnerPool(estimate=4_000.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec(budget_ms=20_000_000))
        took_s = trio.current_time() - began_at

    assert (result.worker, result.attempts, result.output) == (honest.peer_id, 2, b"SOME TEXT")
    assert within_s <= took_s <= within_s + 1
    assert any(isinstance(message, Cancel) for message in told)
    assert not submitter.recorder.reports


async def test_a_long_job_that_moves_slowly_is_left_to_its_worker(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=FakeRunnerPool(pace_s=500.0, estimate=200.0))

    async with mesh.running():
        result = await submitter.submitter.run(spec(budget_ms=2_000_000))

    assert result.attempts == 1


async def test_a_result_that_comes_after_its_lease_is_recorded_and_not_returned(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    salt = b""

    def answer_late(message: Message) -> Sequence[Message]:
        nonlocal salt
        if isinstance(message, Offer):
            salt = message.output_salt
            return [a_lease(message)]
        if not isinstance(message, Cancel):
            return []
        output = Outgoing.cut(salt, b"too late")
        (p,) = output.pieces()
        cid = bytes(output.cid)
        done = Done(message.job_id, message.fence, cid, 8, cid)
        return [Chunk(message.job_id, message.fence, 0, p.body, p.digest), done]

    late, told = hostile(mesh, answer_late)
    honest = mesh.add("worker", runners=FakeRunnerPool(pace_s=1.0, estimate=5.0))

    async with mesh.running():
        began_at = trio.current_time()
        result = await submitter.submitter.run(spec())
        assert trio.current_time() - began_at >= LEASE_TTL_S
        await until(lambda: any(isinstance(message, Ack) for message in told))

    assert (result.worker, result.output) == (honest.peer_id, b"SOME TEXT")
    (record,) = [r for r in submitter.recorder.records if r.kind == "job.late"]
    assert record.attributes["worker"] == late.peer_id
    assert not submitter.recorder.reports


async def test_who_speaks_of_anothers_job_is_reported_once_and_changes_nothing_in_it(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    honest = mesh.add("worker", runners=FakeRunnerPool(pace_s=1.0))
    theirs = spec(1, peer=honest.peer_id)

    def meddle(message: Message) -> Sequence[Message]:
        if not isinstance(message, Offer):
            return []
        job = (theirs.job_id, 1)
        output = Outgoing.cut(b"?" * 16, b"forged")
        (p,) = output.pieces()
        cid = bytes(output.cid)
        forged = [
            Renew(*job, 3, 3),
            Chunk(*job, 0, p.body, p.digest),
            Refuse(*job, "busy", "no"),
            Failed(*job, "it-failed", "", False),
            Lease(*job, 0, 15_000),
            *[Done(*job, cid, 6, cid)] * 100,
        ]
        return [*forged, Refuse(message.job_id, message.fence, "draining", "no")]

    meddler, told = hostile(mesh, meddle)
    results: list[JobResult] = []

    async def submit_theirs() -> None:
        results.append(await submitter.submitter.run(theirs))

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submit_theirs)
        await until(lambda: honest.runners.running == 1)
        with pytest.raises(Refused, match="draining"):
            await submitter.submitter.run(spec(2, peer=meddler.peer_id))

    (result,) = results
    assert (result.worker, result.attempts, result.output) == (honest.peer_id, 1, b"SOME TEXT")
    assert len(submitter.recorder.reports) == 1
    assert told


# Submitters


async def do_jobs(stream: Stream, first: int, count: int) -> None:
    """Have jobs done, and acknowledge nothing."""
    jobs = [terms(number) for number in range(first, first + count)]
    await stream.send(CODEC.encode([job.offer(1, 600_000) for job in jobs]))
    await answers(stream, count)
    await stream.send(CODEC.encode([message for job in jobs for message in start_of(job)]))
    ended = 0
    while ended < count:
        ended += sum(isinstance(message, Done) for message in await answers(stream, 1))


async def test_a_submitter_that_never_acknowledges_has_its_own_oldest_outcomes_dropped(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    careless, careful, worker = mesh.add("submitter"), mesh.add("submitter"), mesh.add("worker")

    async with mesh.running():
        theirs = await raw_session(careful, worker)
        await do_jobs(theirs, 1, 1)
        stream = await raw_session(careless, worker)
        for first in range(0, MAX_OUTCOMES + 100, 100):
            await do_jobs(stream, first, 100)
        last = MAX_OUTCOMES + 99
        await stream.send(CODEC.encode([terms(n).offer(2, 60_000) for n in (0, last)]))
        oldest, newest = await answers(stream, 2)
        await theirs.send(CODEC.encode([terms(1).offer(2, 60_000)]))
        (kept,) = await answers(theirs, 1)

    assert isinstance(oldest, Lease)
    assert oldest.needs_input, "its outcome is forgotten, and it would run again"
    for lease in (newest, kept):
        assert isinstance(lease, Lease)
        assert not lease.needs_input


async def test_a_submitter_that_never_reads_loses_its_session_and_nobody_else_waits(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    deaf, hearing = mesh.add("submitter"), mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=lambda _: bytes(MB)))

    async with mesh.running():
        stream = await raw_session(deaf, worker)
        jobs = [terms(number) for number in range(9)]
        await stream.send(CODEC.encode([job.offer(1, 600_000) for job in jobs]))
        await stream.send(CODEC.encode([m for job in jobs for m in start_of(job)]))
        await until(lambda: worker.runners.finished == 9)
        result = await hearing.submitter.run(spec())
        await until(lambda: worker.sessions.open_count() == 1, within_s=SEND_STALL_S + 5)

    assert len(result.output) == MB
    assert worker.worker.unfinished == 0


async def test_small_jobs_pass_a_large_output_behind_one_piece_a_frame() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    outputs = {b"large": bytes(50 * MB), b"small": b"done"}
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=outputs.__getitem__))
    large, small = terms(1, b"large"), terms(2, b"small")
    under_way = STREAM_WINDOW_BYTES // BULK_CHUNK_BYTES + 2
    frames: list[list[Message]] = []

    async def read_until(kind: type[Chunk | Lease | Done], job: Terms) -> int:
        """Return how many frames came until one had such a message."""
        for count in range(1_000):
            frame = await stream.receive()
            assert frame is not None
            frames.append(CODEC.decode(frame))
            if any(isinstance(m, kind) and m.job_id == job.job_id for m in frames[-1]):
                return count
        raise AssertionError("it never came")

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        await stream.send(CODEC.encode([large.offer(1, 600_000), *start_of(large, b"large")]))
        await read_until(Chunk, large)
        await stream.send(CODEC.encode([small.offer(1, 600_000)]))
        waited = [await read_until(Lease, small)]
        await stream.send(CODEC.encode(start_of(small, b"small")))
        waited += [await read_until(Done, small), await read_until(Done, large)]

    pieces = [[m for m in frame if isinstance(m, Chunk) and m.job_id[-1] == 1] for frame in frames]
    assert max(waited[:2]) <= under_way, "only what was on the wire already came first"
    assert max(len(p) for p in pieces) == 1
    assert waited[2] > 700, "the large one was still on its way"


# Admission and the runners


MODELS = FakeModels({"minilm": model_of("minilm"), "b": model_of("b", "bench.compute")})


@asynccontextmanager
async def with_real_pool(mesh: JobMesh) -> AsyncGenerator[JobNode]:
    """A worker whose jobs go through a real pool, to runners without a process: an input says how
    many seconds it takes.
    """
    pool = RunnerPool(MODELS, system_effects(), child=FakeRunnerChild)
    worker = mesh.add("worker", runners=pool, models=MODELS)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        async with mesh.running():
            yield worker
            await pool.aclose()


async def test_a_submitter_with_all_its_jobs_in_delays_another_by_one_quantum(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    greedy, modest = mesh.add("submitter"), mesh.add("submitter")
    seconds = 0.125

    async with with_real_pool(mesh) as worker:
        stream = await raw_session(greedy, worker)
        jobs = [terms(number, b"0.125") for number in range(1_000)]
        await stream.send(CODEC.encode([job.offer(1, 600_000) for job in jobs]))
        got = await answers(stream, 1_000)
        taken = [job for job, answer in zip(jobs, got, strict=True) if isinstance(answer, Lease)]
        for job in taken:
            await stream.send(CODEC.encode(start_of(job, b"0.125")))
        await trio.sleep(3.0)
        began_at = trio.current_time()
        await modest.submitter.run(spec(input=b"0.125"))
        waited_s = trio.current_time() - began_at - seconds

    assert len(taken) == MAX_JOBS_PER_SUBMITTER, "nothing was measured before"
    assert waited_s <= FAIR_QUANTUM_S + seconds


async def test_a_benchmark_has_the_worker_to_itself_and_others_are_told_when_to_ask_again(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    before, after = terms(1, b"3.0"), terms(4, b"1.0")
    benchmark, second = (terms(n, b"9.0", kind="bench.compute", model="b") for n in (2, 3))

    async with with_real_pool(mesh) as worker:
        stream = await raw_session(submitter, worker)
        await stream.send(CODEC.encode([before.offer(1, 60_000), *start_of(before, b"3.0")]))
        await answers(stream, 2)
        await stream.send(CODEC.encode([benchmark.offer(1, 60_000), *start_of(benchmark, b"9.0")]))
        await answers(stream, 2)
        began_at = trio.current_time()
        await stream.send(CODEC.encode([second.offer(1, 60_000), after.offer(1, 60_000)]))
        refusals = await answers(stream, 2)
        ended: list[bytes] = []
        while len(ended) < 2:
            ended += [m.job_id for m in await answers(stream, 1) if isinstance(m, Done)]
        took_s = trio.current_time() - began_at

    assert ended == [before.job_id, benchmark.job_id]
    assert took_s == pytest.approx(12.0, abs=0.1)
    for refuse in refusals:
        assert isinstance(refuse, Refuse)
        assert refuse.code == "busy"
        assert refuse.retry_after_ms
