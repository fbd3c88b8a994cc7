"""Inputs and outputs that were cut off in the middle: who goes on from where, and who lies about
it. Outputs that grow are in ``test_resumed_growth``.
"""

from __future__ import annotations

import msgspec
import pytest

from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.job import Accept, Chunk, Done, FromWorker, Input, Lease, Offer, Refuse, Terms
from protocols.job_output import JobOutput
from protocols.limits import BULK_CHUNK_BYTES, LEASE_CHOICE_S, MAX_PARTIAL_INPUT_BYTES, ORPHAN_S
from protocols.partial_inputs import PartialInputs
from protocols.pieces import NOTHING, Growing, Held, Incoming, Outgoing, Piece
from protocols.session import Deliver, Effect, JobState, Send, SendInput, Start, Violation
from protocols.submitter_job import SubmitterJob
from protocols.worker_job import Granted, Outcome, WorkerJob
from protocols.worker_jobs import WorkerJobs

JOB_ID = b"j" * 16
KEY = ("s", JOB_ID)
CONTENT = bytes(range(256)) * (5 * BULK_CHUNK_BYTES // 256)
OTHER = CONTENT[: 2 * BULK_CHUNK_BYTES] + bytes(3 * BULK_CHUNK_BYTES)
INPUT, OUTPUT = Outgoing.cut(b"i" * 16, CONTENT), Outgoing.cut(b"o" * 16, CONTENT)
DIFFERENT = Outgoing.cut(b"o" * 16, OTHER)
RECORD = bytes(CID.of(b"a record"))
TERMS = Terms(JOB_ID, "embed", "m", "auto", 3, len(CONTENT), bytes(INPUT.cid), b"i" * 16, b"o" * 16)


def held(content: Outgoing, pieces: int) -> Held:
    return Held(pieces, content.digests[pieces - 1])


def chunks(fence: int, output: Outgoing = OUTPUT) -> list[Chunk]:
    return [Chunk(JOB_ID, fence, p.index, p.body, p.digest) for p in output.pieces()]


def done(fence: int, output: Outgoing = OUTPUT) -> Done:
    return Done(JOB_ID, fence, bytes(output.cid), len(output.content), RECORD)


def lease(fence: int, *, needs_input: bool = False, of_input: Held = NOTHING) -> Lease:
    return Lease(JOB_ID, fence, 10, 15_000, needs_input, *of_input)


def offered(*workers: str) -> SubmitterJob:
    job = SubmitterJob(TERMS, workers, 600)
    job.input_digests = INPUT.digests
    job.start(0)
    return job


def cut_off(came: int, *workers: str) -> SubmitterJob:
    """A job whose first worker was lost after so many pieces of its output, at its next lease."""
    job = offered(*workers)
    job.receive(workers[0], lease(1), 0)
    job.tick(1)
    for chunk in chunks(1)[:came]:
        job.receive(workers[0], chunk, 1)
    job.lost(workers[0], "gone", 2)
    return job


def accepts(effects: list[Effect]) -> list[Accept]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Accept)]


def violation(effects: list[Effect]) -> str:
    (error,) = [effect.error for effect in effects if isinstance(effect, Violation)]
    return error.code


def tell(job: SubmitterJob, *messages: FromWorker) -> list[Effect]:
    return [effect for message in messages for effect in job.receive("w", message, 3)]


# The submitter takes in outputs


def test_the_worker_that_comes_back_is_told_what_is_here_and_sends_the_rest() -> None:
    job = cut_off(3, "w")

    effects = tell(job, lease(2))
    assert accepts(effects) == [Accept(JOB_ID, 2, *held(OUTPUT, 3))]
    tell(job, *chunks(2)[3:], done(2))

    assert job.state is JobState.DONE
    assert job.output() == CONTENT


def test_when_only_the_end_was_missing_nothing_is_sent_again() -> None:
    job = cut_off(5, "w")

    tell(job, lease(2), done(2))

    assert job.state is JobState.DONE
    assert job.output() == CONTENT


def test_an_output_is_cut_off_twice_and_gone_on_with_twice() -> None:
    job = cut_off(1, "w")
    tell(job, lease(2), chunks(2)[1], chunks(2)[2])
    job.lost("w", "gone again", 4)

    effects = tell(job, lease(3))
    assert accepts(effects) == [Accept(JOB_ID, 3, *held(OUTPUT, 3))]
    tell(job, *chunks(3)[3:], done(3))

    assert job.output() == CONTENT


def test_a_worker_that_computed_something_else_meanwhile_sends_all_of_it() -> None:
    job = cut_off(3, "w")

    tell(job, lease(2), *chunks(2, DIFFERENT), done(2, DIFFERENT))

    assert job.state is JobState.DONE
    assert job.output() == OTHER


def test_a_worker_that_was_lost_while_it_sent_its_output_is_asked_among_the_first() -> None:
    job = offered("v", "w", "x", "y")
    job.receive("v", lease(1), 0)
    job.tick(1)
    job.receive("v", chunks(1)[0], 1)

    effects = job.lost("v", "gone", 2)

    first = [e.peer for e in effects if isinstance(e, Send) and isinstance(e.message, Offer)]
    assert first == ["v", "w", "x"]
    job.receive("w", lease(2), 2)
    (accept,) = accepts(job.tick(2 + LEASE_CHOICE_S))
    assert accept.held_pieces == 0, "if it is gone, nobody waits for it"


def test_another_worker_is_not_told_what_the_first_one_sent() -> None:
    job = cut_off(3, "v", "w")

    (accept,) = accepts([*tell(job, lease(2)), *job.tick(4)])

    assert accept == Accept(JOB_ID, 2)
    assert violation(tell(job, chunks(2)[3])) == "piece-missing"
    assert job.worker is None


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([chunks(2)[2]], "piece-missing"),
        ([chunks(2)[4]], "piece-missing"),
        ([chunks(2, DIFFERENT)[3]], "piece-damaged"),
        ([chunks(2)[0], chunks(2)[3]], "piece-missing"),
        ([done(2)], "output-mismatch"),
        ([chunks(2)[3], done(2)], "output-mismatch"),
        ([*chunks(2)[3:], done(2, DIFFERENT)], "output-mismatch"),
    ],
    ids=["behind", "ahead", "other content", "anew and ahead", "no rest", "less", "other end"],
)
def test_a_worker_that_goes_on_wrongly_breaks_the_protocol_and_loses_the_job(
    messages: list[FromWorker], code: str
) -> None:
    job = cut_off(3, "w")
    tell(job, lease(2))

    assert violation(tell(job, *messages)) == code
    assert job.state is not JobState.DONE


def test_a_piece_that_was_refused_leaves_what_came_before_it_as_it_was() -> None:
    output = JobOutput(b"o" * 16)
    first, second, *_ = OUTPUT.pieces()
    output.begin("w")
    output.add(first)

    with pytest.raises(RemoteProtocolError, match="wrong"):
        output.add(Piece(1, second.body, bytes(32)))

    assert output.begin("w") == held(OUTPUT, 1)


# The submitter sends inputs


def test_a_worker_that_has_an_input_in_part_is_sent_the_rest() -> None:
    job = offered("w")

    effects = tell(job, lease(1, needs_input=True, of_input=held(INPUT, 2)))

    assert effects[1:] == [SendInput("w", 1, 2)]


@pytest.mark.parametrize(
    "claimed", [held(INPUT, 5), held(OUTPUT, 2), Held(6, bytes(32)), Held(1 << 20, bytes(32))]
)
def test_a_worker_that_claims_what_it_cannot_have_breaks_the_protocol(claimed: Held) -> None:
    job = offered("w", "x")

    effects = tell(job, lease(1, needs_input=True, of_input=claimed))

    assert violation(effects) == "wrong-resume"
    assert job.worker is None
    assert "w" in job.refusals


# The worker


def worker_with(pieces: int) -> WorkerJobs:
    """A worker whose session with the submitter is lost after so many pieces of an input."""
    jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
    for message in (TERMS.offer(1, 600_000), Accept(JOB_ID, 1), *inputs(1)[:pieces]):
        jobs.receive("s", message, 0)
    jobs.detach(KEY, 1)
    return jobs


def inputs(fence: int) -> list[Input]:
    return [Input(JOB_ID, fence, p.index, p.body, p.digest) for p in INPUT.pieces()]


def leased(effects: list[Effect]) -> Lease:
    (effect,) = effects
    assert isinstance(effect, Send)
    assert isinstance(effect.message, Lease)
    return effect.message


def finished(jobs: WorkerJobs) -> WorkerJob:
    job = jobs.get(KEY)
    assert job is not None
    jobs.finish(job, Outcome(done(1), OUTPUT), 5)
    return job


def test_a_worker_asks_for_the_rest_of_an_input_and_starts_with_all_of_it() -> None:
    jobs = worker_with(2)
    assert jobs.unfinished == 0, "its place is free meanwhile"

    answer = leased(jobs.receive("s", TERMS.offer(2, 600_000), 2))
    assert answer == Lease(JOB_ID, 2, 1_000, 15_000, True, *held(INPUT, 2))
    for message in (Accept(JOB_ID, 2), *inputs(2)[2:]):
        jobs.receive("s", message, 3)

    job = jobs.get(KEY)
    assert job is not None
    assert job.state is JobState.RUNNING
    assert job.take_input() == CONTENT


def test_a_submitter_that_sends_all_of_an_input_again_is_understood() -> None:
    jobs = worker_with(2)

    for message in (TERMS.offer(2, 600_000), Accept(JOB_ID, 2), *inputs(2)):
        jobs.receive("s", message, 2)

    job = jobs.get(KEY)
    assert job is not None
    assert job.take_input() == CONTENT


def test_a_later_offer_in_the_same_session_goes_on_too() -> None:
    jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
    for message in (TERMS.offer(1, 600_000), Accept(JOB_ID, 1), *inputs(1)[:2]):
        jobs.receive("s", message, 0)

    answer = leased(jobs.receive("s", TERMS.offer(2, 600_000), 2))

    assert Held(answer.held_pieces, answer.held_digest) == held(INPUT, 2)


def test_a_beginning_that_was_another_content_is_refused_in_the_end() -> None:
    wrong = Outgoing.cut(b"i" * 16, OTHER)
    jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
    bad = [Input(JOB_ID, 1, p.index, p.body, p.digest) for p in wrong.pieces()][:3]
    for message in (TERMS.offer(1, 600_000), Accept(JOB_ID, 1), *bad):
        jobs.receive("s", message, 0)
    jobs.detach(KEY, 1)

    jobs.receive("s", TERMS.offer(2, 600_000), 2)
    jobs.receive("s", Accept(JOB_ID, 2), 2)
    (effect,) = jobs.receive("s", inputs(2)[3], 2)

    assert isinstance(effect, Send)
    assert isinstance(effect.message, Refuse)
    assert effect.message.code == "wrong-commitment"
    assert leased(jobs.receive("s", TERMS.offer(3, 600_000), 3)).held_pieces == 0


def test_an_offer_that_brings_all_of_a_small_input_needs_nothing_of_what_came_before() -> None:
    small = Outgoing.cut(b"i" * 16, b"small")
    parts = Growing(b"i" * 16)
    parts.add(b"sm")
    parts.add(b"all")
    job_terms = msgspec.structs.replace(TERMS, size_bytes=5, input_cid=bytes(small.cid))
    jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
    first = next(parts.pieces(0))
    for message in (job_terms.offer(1, 600_000), Accept(JOB_ID, 1)):
        jobs.receive("s", message, 0)
    jobs.receive("s", Input(JOB_ID, 1, 0, first.body, first.digest), 0)
    jobs.detach(KEY, 1)

    effects = jobs.receive("s", job_terms.offer(2, 600_000, b"small"), 2)

    assert effects == [Start(KEY)]
    job = jobs.get(KEY)
    assert job is not None
    assert job.take_input() == b"small"


def test_what_nobody_comes_back_for_is_dropped_after_half_a_minute() -> None:
    jobs = worker_with(2)

    assert jobs.next_deadline == 1 + ORPHAN_S
    jobs.tick(1 + ORPHAN_S)

    assert jobs.next_deadline == float("inf")
    assert leased(jobs.receive("s", TERMS.offer(2, 600_000), 40)).held_pieces == 0


def test_an_outcome_is_sent_from_where_its_submitter_has_it() -> None:
    jobs = worker_with(0)
    for message in (TERMS.offer(2, 600_000), Accept(JOB_ID, 2), *inputs(2)):
        jobs.receive("s", message, 2)
    finished(jobs)
    jobs.detach(KEY, 6)
    told = {
        3: (held(OUTPUT, 3), 3),
        4: (held(OUTPUT, 5), 5),
        5: (held(DIFFERENT, 3), 0),
        6: (Held(6, OUTPUT.digests[4]), 0),
        7: (NOTHING, 0),
    }

    for fence, (of_output, first) in told.items():
        jobs.receive("s", TERMS.offer(fence, 600_000), 7)
        effects = jobs.receive("s", Accept(JOB_ID, fence, *of_output), 7)
        assert effects == [Deliver(KEY, fence, first)]


def test_a_run_that_ends_after_its_submitter_came_back_is_sent_from_there_too() -> None:
    jobs = worker_with(0)
    for message in (TERMS.offer(2, 600_000), Accept(JOB_ID, 2), *inputs(2)):
        jobs.receive("s", message, 2)
    jobs.detach(KEY, 3)
    jobs.receive("s", TERMS.offer(3, 600_000), 4)
    jobs.receive("s", Accept(JOB_ID, 3, *held(OUTPUT, 3)), 4)

    assert finished(jobs).deliver() == Deliver(KEY, 3, 3)


def test_partial_inputs_are_bounded_and_who_has_most_gives_up_first() -> None:
    kept = PartialInputs()
    half = Incoming(b"i" * 16, MAX_PARTIAL_INPUT_BYTES)
    half.size_bytes = MAX_PARTIAL_INPUT_BYTES // 2
    small = Incoming(b"i" * 16, 10)
    small.size_bytes = 10

    kept.keep(("modest", JOB_ID), TERMS, small, 0)
    for number in range(3):
        kept.keep(("greedy", bytes([number]) * 16), TERMS, half, 1)

    assert len(kept) == 2
    assert kept.take(("modest", JOB_ID), TERMS) is small
    assert kept.take(("greedy", bytes([2]) * 16), TERMS) is half
    assert kept.take(("greedy", bytes([2]) * 16), TERMS) is not half
