"""What is reported, and so becomes an issue: faults of software and machines, never a user's
mistake.
"""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from node.runner.kinds import BadInputError
from node.runner.kinds.generate import TOO_LONG
from peer.capture import exceptions_of
from protocols.errors import JobFailed
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool


def from_a_runner(code: str) -> JobFailed:
    """A failure as it comes out of a runner's process, with the chain of what went wrong there."""
    return JobFailed("no", code=code, exceptions=exceptions_of(BadInputError("no")))


@pytest.mark.parametrize(
    "error",
    [BadInputError("labels are missing"), from_a_runner("bad-input"), from_a_runner(TOO_LONG)],
)
async def test_a_job_whose_input_is_wrong_is_an_outcome_and_no_report(
    error: Exception, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(error=error))

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(spec())

    assert failed.value.code in ("bad-input", TOO_LONG)
    assert failed.value.details["report"] is None
    assert [run.status for run in worker.recorder.of_kind("job.run")] == ["failed"]
    assert [end.status for end in submitter.recorder.of_kind("job.ended")] == ["failed"]
    assert not worker.recorder.reports
    assert not submitter.recorder.reports


@pytest.mark.parametrize("error", [ValueError("a fault"), from_a_runner("job-failed")])
async def test_a_job_that_fails_otherwise_is_reported_once(
    error: Exception, autojump_clock: MockClock
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(error=error))

    async with mesh.running():
        with pytest.raises(JobFailed):
            await submitter.submitter.run(spec(peer=worker.peer_id))

    assert len(worker.recorder.reports) == 1
    assert not submitter.recorder.reports
