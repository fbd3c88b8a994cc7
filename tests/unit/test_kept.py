from protocols.cid import CID
from protocols.job import Done, Terms
from protocols.kept import KeptOutcomes
from protocols.lease import LeaseClock
from protocols.limits import MAX_OUTCOME_BYTES, MAX_OUTCOMES
from protocols.pieces import Incoming, Outgoing
from protocols.worker_job import Outcome, WorkerJob

CONTENT_CID = bytes(CID.of(b""))


def finished(submitter: str, number: int, size_bytes: int = 0) -> WorkerJob:
    job_id = number.to_bytes(16, "big")
    terms = Terms(job_id, "embed", "m", "auto", 1, 0, CONTENT_CID, b"i" * 16, b"o" * 16)
    job = WorkerJob(submitter, terms, 1, 1.0, 60.0, LeaseClock(0.0), Incoming(b"", 0))
    done = Done(job_id, 1, CONTENT_CID, size_bytes, CONTENT_CID)
    job.outcome = Outcome(done, Outgoing(bytes(size_bytes), ()))
    return job


def overflow(kept: KeptOutcomes) -> list[tuple[str, int]]:
    gone: list[tuple[str, int]] = []
    while (job := kept.next_out()) is not None:
        kept.drop(job)
        gone.append((job.submitter, int.from_bytes(job.terms.job_id, "big")))
    return gone


def test_outcomes_are_bounded_in_number_at_the_expense_of_who_leaves_the_most() -> None:
    kept = KeptOutcomes()
    kept.add(finished("modest", 0))
    for number in range(MAX_OUTCOMES + 2):
        kept.add(finished("greedy", number))

    assert overflow(kept) == [("greedy", 0), ("greedy", 1), ("greedy", 2)]
    assert len(kept) == MAX_OUTCOMES


def test_outcomes_are_bounded_in_bytes_at_the_expense_of_who_leaves_the_most() -> None:
    kept = KeptOutcomes()
    third = MAX_OUTCOME_BYTES // 3
    for number, submitter in enumerate(("greedy", "modest", "greedy")):
        kept.add(finished(submitter, number, third))
    assert overflow(kept) == []

    kept.add(finished("third", 3, third))

    assert overflow(kept) == [("greedy", 0)]
    assert kept.size_bytes == 3 * third


def test_what_was_acknowledged_counts_no_more() -> None:
    kept = KeptOutcomes()
    job = finished("a", 1, 10)
    kept.add(job)

    kept.drop(job)
    kept.drop(job)

    assert (len(kept), kept.size_bytes) == (0, 0)
