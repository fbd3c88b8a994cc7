"""What a job that has no result ends with."""

from __future__ import annotations

from node.errors import NoWorkerError
from node.job import failure_of
from node.placement import Candidate
from protocols.cid import CID
from protocols.job import SALT_BYTES, Terms
from protocols.submitter_job import SubmitterJob
from tests.support.jobs import spec

SALT = b"s" * SALT_BYTES
TERMS = Terms(b"j" * 16, "embed", "m", "auto", 1, 1, bytes(CID.of(b"x")), SALT, SALT)


def test_a_job_whose_time_is_over_before_anybody_answers_says_so() -> None:
    machine = SubmitterJob(TERMS, ["a"], 0.001)
    machine.start(0.0)
    machine.tick(0.001)

    error = failure_of(spec(budget_ms=1), machine, [Candidate("a", 1.0)])

    assert isinstance(error, NoWorkerError)
    assert "before its time of 0.001 s ran out" in error.message
    assert error.message.endswith("; a: did not answer in time")
    assert "--timeout" in str(error.hint)
