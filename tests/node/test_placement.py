"""Who gets the jobs of one submitter, once it has seen what its workers do."""

from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from node.errors import NoWorkerError
from node.requirements import Requirements
from protocols.errors import JobFailed, Refused
from protocols.job import CODEC, Lease, Message, Offer, SessionHello
from protocols.limits import (
    ADVERT_OVERDUE_S,
    BREAKER_OPEN_S_MIN,
    LEASE_TTL_S,
    MAX_SESSIONS,
    RETRY_FLOOR,
)
from protocols.membership import SESSION_PROTOCOL
from protocols.signs import Sign
from protocols.transport import Stream
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool

SPEEDS = (2.0, 3.0, 5.0, 6.0)


def workers_of(mesh: JobMesh, *stated: float) -> list[JobNode]:
    """Workers of the four speeds, stating these."""
    return [
        mesh.add("worker", speed=claim, runners=FakeRunnerPool(pace_s=0.4 / speed))
        for speed, claim in zip(SPEEDS, stated, strict=True)
    ]


async def shares(submitter: JobNode, first: int, count: int) -> Counter[str]:
    """Run so many jobs one after the other; return the share of each worker."""
    done = Counter[str]()
    for number in range(first, first + count):
        result = await submitter.submitter.run(spec(number))
        done[result.worker] += 1
    return Counter({peer: n / count for peer, n in done.items()})  # type: ignore[arg-type]


async def test_each_of_four_unequal_workers_gets_its_share_of_jobs(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = workers_of(mesh, 20.0, 30.0, 50.0, 60.0)

    async with mesh.running():
        share = await shares(submitter, 1, 2_000)

    for worker, speed in zip(workers, SPEEDS, strict=True):
        assert share[worker.peer_id] == pytest.approx(speed / sum(SPEEDS), rel=0.15)


async def test_adverts_that_lie_are_corrected_by_what_was_seen(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = workers_of(mesh, 60.0, 50.0, 30.0, 20.0)

    async with mesh.running():
        await shares(submitter, 1, 300)
        share = await shares(submitter, 301, 2_000)

    for worker, speed in zip(workers, SPEEDS, strict=True):
        assert share[worker.peer_id] == pytest.approx(speed / sum(SPEEDS), rel=0.15)


async def test_a_liar_about_its_speed_loses_its_share(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    liar = mesh.add("worker", speed=1e8, runners=FakeRunnerPool(pace_s=1.0))
    for _ in range(3):
        mesh.add("worker", speed=10.0, runners=FakeRunnerPool(pace_s=0.1))

    async with mesh.running():
        share = await shares(submitter, 1, 200)

    assert share[liar.peer_id] < 0.2, "an honest share is three in a hundred"


async def test_an_unmeasured_worker_is_tried_and_then_gets_what_it_deserves(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    unmeasured = mesh.add("worker", speed=0.0, runners=FakeRunnerPool(pace_s=0.1))
    for _ in range(3):
        mesh.add("worker", speed=1_000.0, runners=FakeRunnerPool(pace_s=0.1))

    async with mesh.running():
        await shares(submitter, 1, 200)
        share = await shares(submitter, 201, 200)
        considered = submitter.placement.choose(spec().needs, trio.current_time()).considered

    basis = {candidate.peer: candidate.basis for candidate in considered}
    assert share[unmeasured.peer_id] > 0.15
    assert "results of ours" in basis[unmeasured.peer_id]


async def test_a_worker_that_fell_silent_is_left_alone_and_then_tried_again(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    silent = mesh.add("worker", speed=1e6)
    honest = mesh.add("worker", speed=1.0)
    offers: list[Message] = []

    async def handle(stream: Stream) -> None:
        await stream.send(CODEC.encode([SessionHello(1)]))
        while (frame := await stream.receive()) is not None:
            for message in CODEC.decode(frame):
                if isinstance(message, Offer):
                    offers.append(message)
                    lease = Lease(message.job_id, message.fence, 0, 15_000)
                    await stream.send(CODEC.encode([lease]))

    silent.transport.serve(SESSION_PROTOCOL, handle)
    silent.directory.may = lambda *_: False  # type: ignore[method-assign]

    async with mesh.running():
        await submitter.submitter.run(spec(1))
        at_first = len(offers)
        began_at = trio.current_time()
        left_alone = await submitter.submitter.run(spec(2))
        assert trio.current_time() - began_at < LEASE_TTL_S
        assert len(offers) == at_first == 1
        considered = submitter.placement.choose(spec().needs, trio.current_time()).considered
        await trio.sleep(2 * BREAKER_OPEN_S_MIN)
        await submitter.submitter.run(spec(3))

    assert left_alone.worker == honest.peer_id
    reasons = {candidate.peer: candidate.reason for candidate in considered}
    assert "is tried again in" in str(reasons[silent.peer_id])
    assert len(offers) == 2, "one job is the trial"


async def test_a_worker_that_was_left_alone_is_asked_if_nobody_else_will_do(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(error=ZeroDivisionError("by zero")))

    async with mesh.running():
        for number in range(1, 4):
            with pytest.raises(JobFailed):
                await submitter.submitter.run(spec(number))
        choice = submitter.placement.choose(spec().needs, trio.current_time())
        worker.runners.error = None
        await submitter.submitter.run(spec(4))
        after = submitter.placement.choose(spec().needs, trio.current_time())

    assert "failed 3 times in a row" in str(choice.considered[0].reason)
    assert choice.considered[0].is_last_resort
    assert choice.peers == [worker.peer_id]
    assert after.considered[0].reason is None


async def test_a_worker_that_was_left_alone_comes_behind_all_others_and_why_says_so(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    steady = mesh.add("worker", speed=1.0)
    back = mesh.add("worker", speed=1e6)

    async with mesh.running():
        terms, _ = await submitter.submitter._commit(spec())
        submitter.placement.note(terms, back.peer_id, Sign.SILENT, trio.current_time())
        first = await submitter.submitter.run(spec(1))
        steady.worker._admission.is_draining = True
        second = await submitter.submitter.run(spec(2))
        whys = [submitter.submitter.explanation(spec(n).job_id) for n in (1, 2)]

    assert (first.worker, second.worker) == (steady.peer_id, back.peer_id)
    told = [{row["peer"]: row["answer"] for row in why.told()["candidates"]} for why in whys if why]
    assert "is tried again in" in told[0][back.peer_id]
    assert "asked only when no other will do" in told[0][back.peer_id]
    assert "its result was taken" in told[1][back.peer_id]
    assert "asked only when no other will do" in told[1][back.peer_id]


async def test_a_worker_that_is_overdue_comes_behind_all_others(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    steady = mesh.add("worker", speed=1.0)
    overdue = mesh.add("worker", speed=1e6)

    async with mesh.running():
        submitter.directory.lost(overdue.peer_id)
        await trio.sleep(ADVERT_OVERDUE_S + 1)
        first = await submitter.submitter.run(spec(1))
        steady.worker._admission.is_draining = True
        second = await submitter.submitter.run(spec(2))
        why = submitter.submitter.explanation(spec(1).job_id)

    assert (first.worker, second.worker) == (steady.peer_id, overdue.peer_id)
    assert why is not None
    told = {row["peer"]: row["answer"] for row in why.told()["candidates"]}
    assert "was not heard of" in told[overdue.peer_id]


async def test_jobs_that_workers_spoil_are_retried_within_a_budget(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [
        mesh.add("worker", runners=FakeRunnerPool(error=ZeroDivisionError("by zero")))
        for _ in range(8)
    ]
    hints: dict[str, str | None] = {}

    async with mesh.running():
        for number in range(1, 21):
            with pytest.raises(JobFailed) as failed:
                await submitter.submitter.run(spec(number))
            hints[failed.value.code] = failed.value.hint

    runs = sum(len(worker.runners.requests) for worker in workers)
    assert runs - 20 <= RETRY_FLOOR + 20 * 0.1
    assert "covey errors list" in str(hints["retry-budget"])


async def test_a_job_goes_only_where_its_requirements_are_met(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", speed=10.0)
    fast = mesh.add("worker", speed=100.0)
    demanding = Requirements(device="cpu", min_speed=50.0)

    async with mesh.running():
        workers = {
            (await submitter.submitter.run(spec(n, requirements=demanding))).worker
            for n in range(1, 11)
        }
        with pytest.raises(NoWorkerError, match=r"device cuda.*has no cuda"):
            await submitter.submitter.run(spec(11, requirements=Requirements(device="cuda")))

    assert workers == {fast.peer_id}


async def test_a_worker_refuses_a_requirement_that_its_advert_no_longer_meets(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", speed=100.0)

    async with mesh.running():
        worker.speed = 10.0
        worker.directory.advertise(worker.advert())
        with pytest.raises(Refused, match="computes 10 GFLOP/s, not 50") as refused:
            await submitter.submitter.run(
                spec(peer=worker.peer_id, requirements=Requirements(min_speed=50.0))
            )

    assert refused.value.code == "unmet-requirement"


async def test_a_job_waits_for_room_when_every_session_has_jobs(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [
        mesh.add("worker", runners=FakeRunnerPool(pace_s=2.0)) for _ in range(MAX_SESSIONS + 1)
    ]

    async with mesh.running(), trio.open_nursery() as nursery:
        for number, worker in enumerate(workers, start=1):
            nursery.start_soon(submitter.submitter.run, spec(number, peer=worker.peer_id))

    assert all(worker.runners.finished == 1 for worker in workers)
