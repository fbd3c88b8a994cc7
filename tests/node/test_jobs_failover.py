import pytest
import trio
from trio.testing import MockClock

from node.errors import NoWorkerError
from protocols.cid import CID
from protocols.errors import JobFailed
from protocols.limits import LEASE_TTL_S, MAX_ATTEMPTS, PEER_SILENCE_S
from protocols.report import ExceptionInfo, Frame
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until


def damaged(code: str = "model-damaged") -> JobFailed:
    frames = (Frame("node.runner.files", "ModelFiles.check", 40),)
    seen = (ExceptionInfo("ModelDamagedError", "node.manifest", "model is damaged", frames),)
    return JobFailed("the model's files are not what they were", code=code, exceptions=seen)


def workers_of(mesh: JobMesh) -> list[JobNode]:
    return [node for node in mesh.nodes if "worker" in node.membership.roles]


def reports_of(mesh: JobMesh) -> list[str]:
    return [node.peer_id for node in mesh.nodes for _ in node.recorder.reports]


def working(mesh: JobMesh) -> JobNode:
    (node,) = [node for node in workers_of(mesh) if node.runners.running]
    return node


async def test_a_lost_session_moves_the_job_to_another_worker(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for _ in range(2):
        mesh.add("worker", runners=FakeRunnerPool(pace_s=5.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        results = []

        async def run() -> None:
            results.append(await submitter.submitter.run(spec()))

        nursery.start_soon(run)
        await until(lambda: any(worker.runners.running for worker in workers_of(mesh)))
        first = working(mesh)
        mesh.network.reset(submitter.peer_id, first.peer_id)
        await until(lambda: bool(results), within_s=60)
        await until(lambda: not first.runners.running, within_s=60)

    (result,) = results
    assert result.worker != first.peer_id
    assert (result.fence, result.attempts) == (2, 2)
    assert len(submitter.recorder.of_kind("job.accepted")) == 1
    assert not reports_of(mesh)


async def test_a_frozen_worker_loses_the_job_within_its_silence(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for _ in range(2):
        mesh.add("worker", runners=FakeRunnerPool(pace_s=1.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        results = []

        async def run() -> None:
            results.append(await submitter.submitter.run(spec()))

        nursery.start_soon(run)
        await until(lambda: any(worker.runners.running for worker in workers_of(mesh)))
        first, frozen_at = working(mesh), trio.current_time()
        mesh.network.freeze(first.peer_id)
        await until(lambda: any(w.runners.running for w in workers_of(mesh) if w is not first))
        assert trio.current_time() - frozen_at <= PEER_SILENCE_S + 1
        await until(lambda: bool(results), within_s=60)

    assert results[0].worker != first.peer_id


async def test_a_lone_worker_whose_session_was_lost_is_found_again_with_the_job_still_running(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(pace_s=5.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        results = []

        async def run() -> None:
            results.append(await submitter.submitter.run(spec(input=b"x" * 100_000)))

        nursery.start_soon(run)
        await until(lambda: worker.runners.running == 1)
        await trio.sleep(6)
        mesh.network.reset(submitter.peer_id, worker.peer_id)
        await until(lambda: bool(results), within_s=60)

    (result,) = results
    assert (result.fence, result.attempts) == (2, 2)
    assert worker.runners.finished == 1, "it was not computed twice"
    assert result.output == b"X" * 100_000


async def test_a_job_that_loses_every_worker_fails_with_what_happened(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(NoWorkerError, match="lost with every worker") as error:
                await submitter.submitter.run(spec())
            assert error.value.code == "worker-lost"
            assert error.value.details["attempts"] == MAX_ATTEMPTS

        nursery.start_soon(run)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            await until(lambda: worker.runners.running == 1)
            await trio.sleep(1)
            mesh.network.reset(submitter.peer_id, worker.peer_id)
            del attempt
        await trio.sleep(2 * LEASE_TTL_S)


async def test_a_failure_of_the_worker_is_reported_once_there_and_tried_elsewhere(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    broken = mesh.add("worker", speed=1e6, runners=FakeRunnerPool(error=damaged()))
    healthy = mesh.add("worker", runners=FakeRunnerPool(estimate=5.0))

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert result.worker == healthy.peer_id
    assert result.attempts == 2
    assert reports_of(mesh) == [broken.peer_id]
    (report,) = broken.recorder.reports
    (run,) = broken.recorder.of_kind("job.run")
    assert run.status == "failed"
    assert report.job_id == spec().job_id.hex()
    assert report.model == "minilm"
    assert report.exceptions[-1].type == "ModelDamagedError"
    assert broken.recorder.of_kind("error.report")[0].informed_by[0].digest
    assert not healthy.recorder.reports


async def test_a_failure_at_a_named_peer_is_final_and_reported_once(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    broken = mesh.add("worker", runners=FakeRunnerPool(error=damaged()))
    mesh.add("worker")

    async with mesh.running():
        for number in (1, 2):
            with pytest.raises(JobFailed) as failed:
                await submitter.submitter.run(spec(number, peer=broken.peer_id))
            assert failed.value.code == "model-damaged"
            assert failed.value.details["report"]

    assert reports_of(mesh) == [broken.peer_id] * 2
    assert not submitter.recorder.of_kind("job.accepted")


async def test_a_failure_of_the_input_is_not_tried_elsewhere(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for _ in range(2):
        mesh.add("worker", runners=FakeRunnerPool(error=JobFailed("not text", code="bad-input")))

    async with mesh.running():
        with pytest.raises(JobFailed, match="not text") as failed:
            await submitter.submitter.run(spec())

    assert failed.value.code == "bad-input"
    assert failed.value.details["attempts"] == 1
    assert reports_of(mesh) == []


async def test_an_unforeseen_exception_in_a_run_fails_that_job_only(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(error=ZeroDivisionError("by zero")))

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(spec())
        worker.runners.error = None
        result = await submitter.submitter.run(spec(2))

    assert failed.value.code == "unexpected"
    assert result.output == b"SOME TEXT"
    assert len(worker.recorder.reports) == 1


async def test_an_unreachable_worker_is_passed_over(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    gone = mesh.add("worker", speed=1e6)
    alive = mesh.add("worker", runners=FakeRunnerPool(estimate=3.0))
    mesh.network.partition(submitter.peer_id, gone.peer_id)

    async with mesh.running():
        result = await submitter.submitter.run(spec())
        with pytest.raises(Exception, match="unreachable") as error:
            await submitter.submitter.run(spec(2, peer=gone.peer_id))

    assert result.worker == alive.peer_id
    assert result.attempts == 1, "a worker that was not reached is no attempt"
    assert gone.peer_id in str(error.value)


async def test_a_worker_that_restarts_in_the_middle_gets_the_job_again(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:
        results = []

        async def run() -> None:
            results.append(await submitter.submitter.run(spec()))

        nursery.start_soon(run)
        await until(lambda: worker.runners.running == 1)
        worker.worker._jobs._jobs.clear()
        worker.runners.hold = False
        mesh.network.reset(submitter.peer_id, worker.peer_id)
        await until(lambda: bool(results))

    assert results[0].attempts == 2


async def test_records_say_what_became_of_each_attempt(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for _ in range(MAX_ATTEMPTS):
        mesh.add("worker", runners=FakeRunnerPool(error=damaged()))

    async with mesh.running():
        with pytest.raises(JobFailed, match="failed at 12D3"):
            await submitter.submitter.run(spec())

    lost = submitter.recorder.of_kind("job.lost")
    (ended,) = submitter.recorder.of_kind("job.ended")
    (submitted,) = submitter.recorder.of_kind("job.submitted")
    assert [each.attributes["fence"] for each in lost] == [1, 2, 3]
    assert {each.attributes["worker"] for each in lost} == {n.peer_id for n in workers_of(mesh)}
    assert all("failed there" in each.attributes["reason"] for each in lost)
    assert (ended.status, ended.attributes["attempts"]) == ("failed", MAX_ATTEMPTS)
    assert ended.informed_by[0] == CID.of(submitted.encode())


async def test_a_client_that_goes_away_leaves_a_cancelled_job_on_record(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=FakeRunnerPool(hold=True))

    async with mesh.running():
        with trio.move_on_after(5):
            await submitter.submitter.run(spec())

    (ended,) = submitter.recorder.of_kind("job.ended")
    assert ended.status == "cancelled"
