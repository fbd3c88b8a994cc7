"""A kept job that was lost waits until somebody can take it again: three losses end it, not one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.arrivals import Arrivals
from node.carrier import WAKE_EVERY_S, Carrier
from node.job import Progress
from node.kept_jobs import KeptJobs, Promise
from node.waiting import WAIT_S_MIN
from protocols.errors import JobFailed
from protocols.limits import MAX_ATTEMPTS
from protocols.session import JobState
from tests.support.carrying import a_pair, carrying
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

HOUR_MS = 3_600_000
FAULT = JobFailed("the upstream's answer makes no sense: it ended", code="upstream-broken")
NOWHERE = Progress(JobState.NEW, None, 0, 0, 0)


def is_running(carrier: Carrier, job_id: bytes) -> bool:
    progress = carrier.progress(job_id)
    return progress is not None and progress.state is JobState.RUNNING


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_job_whose_only_worker_was_lost_goes_on_when_that_is_back(
    is_named: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=20.0))
    job = spec(budget_ms=HOUR_MS, peer=worker.peer_id if is_named else None)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        await until(lambda: worker.runners.running == 1)
        mesh.network.freeze(worker.peer_id)
        await until(lambda: carrier.reason(job.job_id) is not None, within_s=120)
        mesh.network.thaw(worker.peer_id)
        end = await carrier.wait(job.job_id)

    assert end.state == "done"
    assert end.result is not None
    assert end.result["attempts"] == 2


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_job_that_its_only_worker_spoiled_is_tried_there_again(
    is_named: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(error=FAULT))
    job = spec(budget_ms=HOUR_MS, peer=worker.peer_id if is_named else None)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        await until(lambda: carrier.reason(job.job_id) is not None)
        worker.runners.error = None
        end = await carrier.wait(job.job_id)

    assert end.state == "done"
    assert end.result is not None
    assert end.result["attempts"] == 2


@pytest.mark.parametrize("is_named", [False, True])
async def test_three_lost_attempts_end_a_job_however_far_apart_they_are(
    is_named: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(error=FAULT))
    job = spec(budget_ms=HOUR_MS, peer=worker.peer_id if is_named else None)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        end = await carrier.wait(job.job_id)

    assert end.state == "failed"
    assert end.error is not None
    assert end.error["code"] == FAULT.code
    assert len(worker.runners.requests) == MAX_ATTEMPTS


async def test_lost_attempts_count_over_restarts_of_the_submitter(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))
    job = spec(budget_ms=HOUR_MS)

    async with mesh.running():
        for number in range(1, MAX_ATTEMPTS + 1):
            async with carrying(submitter, tmp_path) as carrier:
                if number == 1:
                    await carrier.submit(job)
                await until(lambda: is_running(carrier, job.job_id), within_s=60)
                mesh.network.partition(submitter.peer_id, worker.peer_id)
                if number == MAX_ATTEMPTS:
                    end = await carrier.wait(job.job_id)
                    break
                await until(lambda: carrier.reason(job.job_id) is not None, within_s=120)
            mesh.network.heal(submitter.peer_id, worker.peer_id)

    log = KeptJobs(tmp_path).log(job.job_id)
    fences = [step["fence"] for step in log if step["what"] == "lost"]
    assert end.state == "failed"
    assert end.error is not None
    assert end.error["code"] == "worker-lost"
    assert len(fences) == MAX_ATTEMPTS
    assert fences == sorted(set(fences)), "each attempt has a fence above those before it"


async def test_an_attempt_that_ended_with_its_submitter_counts_for_who_looks_and_not_for_the_limit(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))
    job = spec(budget_ms=HOUR_MS)

    async with mesh.running():
        for number in range(1, MAX_ATTEMPTS + 2):
            async with carrying(submitter, tmp_path) as carrier:
                if number == 1:
                    await carrier.submit(job)
                assert (carrier.attempts(job.job_id) or 0) == number - 1, "also before it is tried"
                await until(lambda: is_running(carrier, job.job_id), within_s=60)
                assert carrier.attempts(job.job_id) == number
        worker.runners.hold = False
        async with carrying(submitter, tmp_path) as carrier:
            end = await carrier.wait(job.job_id)

    assert end.state == "done"
    assert end.result is not None
    assert end.why is not None
    tries = MAX_ATTEMPTS + 2
    assert (end.attempts, end.result["attempts"], end.why["attempts"]) == (tries, tries, tries)
    (accepted,) = submitter.recorder.of_kind("job.accepted")
    assert accepted.attributes["fence"] == end.result["fence"]


async def test_a_job_that_waits_is_tried_as_soon_as_a_worker_says_hello(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    job = spec(budget_ms=HOUR_MS)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        await trio.sleep(600)  # by now it is tried every half a minute
        worker = mesh.add("worker")
        mesh.introduce()
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            came_at = trio.current_time()
            carrier.wake()
            end = await carrier.wait(job.job_id)
            done_at = trio.current_time()
            nursery.cancel_scope.cancel()

    assert end.state == "done"
    assert done_at - came_at < WAIT_S_MIN


async def test_many_hellos_cost_one_try_each_few_seconds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    job = spec(budget_ms=HOUR_MS)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        await trio.sleep(600)
        tries = set[int]()
        for _ in range(100):
            carrier.wake()
            await trio.sleep(0.1)
            tries.add(id(carrier.reason(job.job_id)))

    assert 1 < len(tries) <= 2 * 10 / WAKE_EVERY_S + 5


async def test_a_job_that_failed_is_run_anew_when_it_is_submitted_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    fault = JobFailed("no vowels in it", code="bad-text")
    mesh, submitter, worker = a_pair(FakeRunnerPool(error=fault))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        failed = await carrier.wait(spec().job_id)
        worker.runners.error = None
        promise = await carrier.submit(spec())
        end = await carrier.wait(spec().job_id)
        log = await carrier.log(spec().job_id)

    first, second = (record.attributes for record in submitter.recorder.of_kind("job.submitted"))
    (accepted,) = submitter.recorder.of_kind("job.accepted")
    whats = [step["what"] for step in log]
    assert (failed.state, promise, end.state) == ("failed", Promise.AGAIN, "done")
    assert first["job_id"] == second["job_id"]
    assert end.result is not None
    assert end.result["attempts"] == 1
    assert accepted.attributes["fence"] > max(s["fence"] for s in log if s["what"] == "failed")
    assert whats.count("tried again") == 1
    assert whats.index("failed") < whats.index("tried again") < whats.index("done")


async def test_a_job_that_was_cancelled_and_is_still_stopping_can_be_submitted_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        await until(lambda: worker.runners.running == 1)
        await carrier.cancel(spec().job_id)
        worker.runners.hold = False
        promise = await carrier.submit(spec())
        end = await carrier.wait(spec().job_id)

    assert (promise, end.state) == (Promise.AGAIN, "done")


async def test_while_a_job_runs_it_says_where_and_how_far_it_is_and_what_happened(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=2.0))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        await until(lambda: (carrier.progress(spec().job_id) or NOWHERE).items_done == 1)
        progress, attempts = carrier.progress(spec().job_id), carrier.attempts(spec().job_id)
        on_disk = [step["what"] for step in KeptJobs(tmp_path).log(spec().job_id)]
        log = [step["what"] for step in await carrier.log(spec().job_id)]
        await carrier.wait(spec().job_id)
        whole = [step["what"] for step in await carrier.log(spec().job_id)]

    assert progress == Progress(JobState.RUNNING, worker.peer_id, 1, 3, 1)
    assert attempts == 1
    assert on_disk == log, "a kill would lose nothing"
    assert log == ["submitted", "offered", "leased", "accepted", "running"]
    assert whole == [*log, "done", "ended"]


async def test_the_log_says_what_a_job_waits_for_once_and_how_it_ended(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(budget_ms=HOUR_MS))
        await trio.sleep(600)
        await carrier.cancel(spec().job_id)
        log = await carrier.log(spec().job_id)

    assert [step["what"] for step in log] == ["submitted", "waits", "ended"]
    assert "no worker is known" in log[1]["detail"]
    assert log[2]["detail"] == "cancelled: the job was cancelled"


async def test_a_fault_of_a_worker_is_one_step_of_the_log(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair(FakeRunnerPool(error=FAULT))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(budget_ms=HOUR_MS))
        await until(lambda: carrier.reason(spec().job_id) is not None)
        log = await carrier.log(spec().job_id)

    assert sum(FAULT.message in str(step.get("detail")) for step in log if "peer" in step) == 1


async def test_a_model_that_a_worker_did_not_offer_before_is_news(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    news: list[str] = []
    Arrivals(submitter.directory, lambda: news.append("news"))

    mesh.introduce()
    mesh.introduce()
    submitter.directory.lost(worker.peer_id)
    first = len(news)
    submitter.directory.forget(worker.peer_id)
    mesh.introduce()

    assert first == 1, "the same again is none"
    assert len(news) == 2, "what went and comes back is"
