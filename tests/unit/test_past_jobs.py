"""What is known of jobs that have ended: their fences, and who may still send a result."""

from node.past_jobs import PastJobs
from protocols.cid import CID
from protocols.job import Done, Lease, Terms
from protocols.limits import MAX_STRAY_RESULTS, MAX_SUBMITTER_JOBS
from protocols.pieces import Outgoing
from protocols.submitter_job import SubmitterJob

INPUT = Outgoing.cut(b"i" * 16, b"text")
RECORD = bytes(CID.of(b"a record"))


def job_of(number: int) -> SubmitterJob:
    """A job that was lost with worker ``a`` and cancelled afterwards."""
    job_id = number.to_bytes(16, "big")
    terms = Terms(job_id, "embed", "m", "auto", 1, 4, bytes(INPUT.cid), b"i" * 16, b"o" * 16)
    job = SubmitterJob(terms, ["a", "b"], 600)
    job.start(0)
    for peer in ("a", "b"):
        job.receive(peer, Lease(job_id, 1, 10 if peer == "a" else 20, 15_000), 0)
    job.lost("a", "gone", 1)
    job.cancel()
    return job


def done(number: int, fence: int = 1) -> Done:
    return Done(number.to_bytes(16, "big"), fence, RECORD, 0, RECORD)


def test_a_result_that_was_owed_is_recorded_once_and_does_not_count_as_a_stray() -> None:
    past = PastJobs()
    numbers = range(1, 2 * MAX_STRAY_RESULTS)
    for number in numbers:
        past.add(job_of(number))

    assert all(past.is_recorded("a", done(number)) for number in numbers)
    repeated = [past.is_recorded("a", done(number)) for number in numbers]
    assert sum(repeated) == MAX_STRAY_RESULTS
    assert past.is_recorded("b", done(1)), "one worker's strays are not another's"


def test_a_job_goes_on_above_its_last_fence_as_long_as_it_is_remembered() -> None:
    past = PastJobs()
    past.add(job_of(0))
    for number in range(1, MAX_SUBMITTER_JOBS + 1):
        past.add(job_of(number))

    assert past.resume((0).to_bytes(16, "big")) == 0
    assert past.resume((1).to_bytes(16, "big")) == 2
    assert past.resume((1).to_bytes(16, "big")) == 0
