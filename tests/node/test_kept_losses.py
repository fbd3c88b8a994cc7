"""A kept job that was lost waits until somebody can take it again: three losses end it, not one."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from node.carrier import Carrier
from node.kept_jobs import KeptJobs
from protocols.errors import JobFailed
from protocols.limits import MAX_ATTEMPTS
from protocols.session import JobState
from tests.support.carrying import a_pair, carrying
from tests.support.jobs import spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

HOUR_MS = 3_600_000
FAULT = JobFailed("the upstream's answer makes no sense: it ended", code="upstream-broken")


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
