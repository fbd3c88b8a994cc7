import itertools
from dataclasses import replace

import msgspec
import pytest

from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.job import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    Input,
    Lease,
    Offer,
    Refuse,
    Release,
    Renew,
    Terms,
)
from protocols.limits import (
    LEASE_ACCEPT_S,
    LEASE_CHOICE_S,
    LEASE_RENEW_S,
    LEASE_TTL_S,
    MAX_ATTEMPTS,
    MAX_FENCE_RISE,
    MAX_OUTCOME_BYTES,
    MAX_STRAY_RESULTS,
    OFFER_ANSWER_S,
    ORPHAN_S,
    OUTCOME_KEEP_S,
    RUN_SILENCE_S,
)
from protocols.pieces import Outgoing
from protocols.session import (
    TRANSITIONS,
    Deliver,
    Effect,
    JobEvent,
    JobState,
    Late,
    Lifecycle,
    Send,
    SendInput,
    Start,
    Stop,
    Violation,
)
from protocols.signs import Sign
from protocols.submitter_job import SubmitterJob
from protocols.worker_job import Granted, Load, Outcome, WorkerJob
from protocols.worker_jobs import WorkerJobs

JOB_ID = b"j" * 16
CONTENT = b"some input"
OUTPUT = b"some output"
INPUT = Outgoing.cut(b"i" * 16, CONTENT)
RESULT = Outgoing.cut(b"o" * 16, OUTPUT)
RECORD = CID.of(b"a record")
TERMS = Terms(JOB_ID, "embed", "m", "auto", 3, len(CONTENT), INPUT.cid, b"i" * 16, b"o" * 16)
KEY = ("submitter", JOB_ID)


# The table


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_an_illegal_step_raises_and_changes_nothing(state: JobState, event: JobEvent) -> None:
    life = Lifecycle()
    life._state = state

    if event in TRANSITIONS[state]:
        life.step(event)
        assert life.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(LocalProtocolError):
            life.step(event)
        assert life.state is state


def test_every_state_can_be_reached_and_the_final_ones_are_never_left() -> None:
    reached = {JobState.NEW} | {s for row in TRANSITIONS.values() for s in row.values()}

    assert reached == set(JobState)
    assert {s for s in JobState if s.is_final} == {
        JobState.DONE,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.EXPIRED,
    }


# The submitter


def submitter(*candidates: str, is_named: bool = False, budget_s: float = 600) -> SubmitterJob:
    return SubmitterJob(TERMS, candidates, budget_s, is_named=is_named)


def lease(fence: int = 1, eta_ms: int = 10, *, needs_input: bool = True) -> Lease:
    return Lease(JOB_ID, fence, eta_ms, 15_000, needs_input)


def refuse(fence: int = 1, code: str = "busy", **more: int) -> Refuse:
    return Refuse(JOB_ID, fence, code, f"it is {code}", **more)


def results(fence: int = 1) -> list[Chunk | Done]:
    chunks = [Chunk(JOB_ID, fence, p.index, p.body, p.digest) for p in RESULT.pieces()]
    return [*chunks, Done(JOB_ID, fence, RESULT.cid, len(OUTPUT), RECORD)]


def failed(fence: int = 1, *, is_worker_fault: bool) -> Failed:
    return Failed(JOB_ID, fence, "model-damaged", "bytes flipped", is_worker_fault)


def offered_to(effects: list[Effect]) -> list[str]:
    return [e.peer for e in effects if isinstance(e, Send) and isinstance(e.message, Offer)]


def running_job(*candidates: str) -> SubmitterJob:
    job = submitter(*candidates)
    job.start(0)
    for peer in candidates[1:2]:
        job.receive(peer, refuse(code="unknown-model"), 0)
    job.receive(candidates[0], lease(), 0)
    assert job.state is JobState.LEASED
    return job


def test_three_candidates_get_an_offer_and_the_best_lease_is_accepted() -> None:
    job = submitter("a", "b", "c", "d")

    assert offered_to(job.start(0)) == ["a", "b", "c"]
    assert job.receive("a", lease(eta_ms=50), 0.1) == []
    assert job.receive("c", refuse(code="unknown-model"), 0.1) == []
    assert job.receive("b", lease(eta_ms=20), 0.1) == [
        Send("b", Accept(JOB_ID, 1)),
        SendInput("b", 1),
        Send("a", Release(JOB_ID, 1)),
    ]
    assert job.worker == "b"


def test_a_better_lease_is_waited_for_only_a_moment() -> None:
    job = submitter("a", "b")
    job.start(0)
    job.receive("a", lease(), 1)

    assert job.next_deadline == 1 + LEASE_CHOICE_S
    effects = job.tick(1 + LEASE_CHOICE_S)

    assert effects[0] == Send("a", Accept(JOB_ID, 1))
    assert job.receive("b", lease(), 2) == [Send("b", Release(JOB_ID, 1))]


def test_refusals_widen_the_round_and_a_job_that_all_refuse_fails() -> None:
    job = submitter(*"abxcde")
    job.start(0)

    assert job.receive("a", refuse(code="unknown-model"), 0) == []
    assert job.receive("x", refuse(code="unknown-model"), 0) == []
    assert offered_to(job.receive("b", refuse(code="draining"), 0)) == ["c", "d", "e"]
    job.receive("c", refuse(code="unknown-model"), 0)
    job.lost("d", "no address answered", 0)
    job.tick(OFFER_ANSWER_S)

    assert job.state is JobState.FAILED
    assert {peer: r.code for peer, r in job.refusals.items()} == {
        "a": "unknown-model",
        "x": "unknown-model",
        "b": "draining",
        "c": "unknown-model",
        "d": "unreachable",
        "e": "no-answer",
    }
    assert job.attempts == 0


def test_when_everyone_is_busy_the_round_is_repeated_within_the_budget() -> None:
    job = submitter("a", budget_s=5)
    job.start(0)

    assert job.receive("a", refuse(retry_after_ms=2_000), 0) == []
    assert job.state is JobState.OFFERED
    assert offered_to(job.tick(2)) == ["a"]
    job.receive("a", refuse(retry_after_ms=2_000), 2)
    job.tick(5)

    assert job.state is JobState.EXPIRED


def test_a_lost_session_moves_the_job_to_the_next_candidate_with_a_higher_fence() -> None:
    job = running_job("a", "b")

    effects = job.lost("a", "the session was lost", 3)

    assert offered_to(effects) == ["b"]
    assert job.fence == 2
    assert job.state is JobState.OFFERED
    assert offered_to(job.receive("b", refuse(2, "draining"), 3)) == ["a"], "the lost one is last"


def test_a_silent_lease_is_lost_and_a_renewed_one_is_not() -> None:
    job = running_job("a")
    job.receive("a", Renew(JOB_ID, 1, 1, 3), LEASE_TTL_S - 1)
    assert job.progress == (1, 3)

    assert job.tick(LEASE_TTL_S) == []
    effects = job.tick(2 * LEASE_TTL_S - 1)

    assert effects[0] == Send("a", Cancel(JOB_ID, 1))
    assert offered_to(effects) == ["a"]


def test_after_three_lost_attempts_the_job_fails() -> None:
    job = submitter("a")
    job.start(0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job.receive("a", lease(attempt), 0)
        job.lost("a", "gone", 0)

    assert job.state is JobState.FAILED
    assert [why for _, why in job.losses] == ["gone"] * MAX_ATTEMPTS


def test_a_whole_result_ends_the_job_and_is_acknowledged_only_on_request() -> None:
    job = running_job("a")

    effects = [e for message in results() for e in job.receive("a", message, 1)]

    assert effects == []
    assert job.state is JobState.DONE
    assert job.output() == OUTPUT
    assert job.receive("a", results()[-1], 1) == []
    assert job.acknowledge() == [Send("a", Ack(JOB_ID, 1))]


def test_a_result_under_an_old_fence_is_noted_once_and_never_returned() -> None:
    job = running_job("a", "b")
    job.lost("a", "gone", 1)
    job.receive("b", lease(2), 1)
    job.tick(2)
    assert job.worker == "b"

    effects = [e for message in results(1) * 2 for e in job.receive("a", message, 2)]

    assert effects == [
        Late("a", 1, bytes(RESULT.cid), bytes(RECORD)),
        Send("a", Ack(JOB_ID, 1)),
        Send("a", Ack(JOB_ID, 1)),
    ]
    assert job.done is None


def test_what_the_worker_says_under_its_old_fence_does_not_count_for_the_new_one() -> None:
    job = running_job("a")
    job.lost("a", "gone", 1)
    job.receive("a", lease(2), 1)
    renews_at = job.next_deadline

    for message in (Renew(JOB_ID, 1, 2, 3), results(1)[0], failed(1, is_worker_fault=False)):
        job.receive("a", message, 9)

    assert job.state is JobState.LEASED
    assert job.next_deadline == renews_at
    for message in results(2):
        job.receive("a", message, 10)
    assert job.output() == OUTPUT


def test_what_a_lost_attempt_sent_is_no_part_of_the_next_ones_output() -> None:
    job = running_job("a", "b")
    (other,) = Outgoing.cut(b"o" * 16, b"half of another output").pieces()
    job.receive("a", Chunk(JOB_ID, 1, 0, other.body, other.digest), 1)
    job.lost("a", "gone", 1)
    job.receive("b", lease(2), 1)
    job.tick(2)

    for message in results(2):
        job.receive("b", message, 2)

    assert job.state is JobState.DONE
    assert job.output() == OUTPUT


def test_stray_results_of_an_earlier_submission_are_late_and_not_a_violation() -> None:
    job = SubmitterJob(TERMS, ["a"], 600, last_fence=4)
    job.start(0)

    effects = job.receive("a", results(4)[-1], 1)

    assert job.fence == 5
    assert effects == [
        Late("a", 4, bytes(RESULT.cid), bytes(RECORD)),
        Send("a", Ack(JOB_ID, 4)),
    ]


def test_of_stray_results_of_an_earlier_submission_so_many_of_a_worker_are_noted() -> None:
    job = SubmitterJob(TERMS, ["a"], 600, last_fence=1_000)
    job.start(0)

    flood = [each for n in range(1, 1_001) for each in job.receive("a", results(n)[-1], 1)]
    others = job.receive("b", results(7)[-1], 1)

    assert sum(isinstance(effect, Late) for effect in flood) == MAX_STRAY_RESULTS
    assert sum(isinstance(effect, Send) for effect in flood) == 1_000
    assert isinstance(others[0], Late)


def test_who_still_owes_a_result_is_known_until_it_comes() -> None:
    job = running_job("a", "b")
    job.lost("a", "gone", 1)
    job.receive("b", lease(2), 1)
    job.tick(2)
    before = job.owed
    for message in results(2):
        job.receive("b", message, 2)
    after = job.owed
    job.receive("a", results(1)[-1], 3)

    assert before == {("a", 1), ("b", 2)}
    assert after == {("a", 1)}
    assert job.owed == frozenset()


def test_a_result_of_a_job_that_a_worker_never_had_is_a_violation() -> None:
    job = running_job("a", "b")

    (violation,) = job.receive("b", results()[-1], 1)

    assert isinstance(violation, Violation)
    assert job.state is JobState.LEASED


def test_an_output_that_is_not_the_committed_one_costs_the_worker_the_job() -> None:
    job = running_job("a", "b")
    wrong = Done(JOB_ID, 1, CID.of(b"other"), len(OUTPUT), RECORD)
    job.receive("a", results()[0], 1)

    violation, cancel, *rest = job.receive("a", wrong, 1)

    assert isinstance(violation, Violation)
    assert isinstance(violation.error, RemoteProtocolError)
    assert cancel == Send("a", Cancel(JOB_ID, 1))
    assert offered_to(rest) == ["b"]


def test_a_small_output_comes_with_the_result_and_is_checked_all_the_same() -> None:
    done = Done(JOB_ID, 1, RESULT.cid, len(OUTPUT), RECORD, output=OUTPUT)
    for job in (running_job("a"), entrusted()):
        assert job.answer("a", done, 1) == OUTPUT
        assert job.receive("a", done, 1) == []
        assert job.state is JobState.DONE
        assert job.output() == OUTPUT

    job = running_job("a", "b")
    other = msgspec.structs.replace(done, output=OUTPUT[::-1])
    assert job.answer("a", other, 1) is None
    violation, *_ = job.receive("a", other, 1)

    assert isinstance(violation, Violation)
    assert violation.error.code == "output-mismatch"
    assert job.fence == 2


def test_an_output_that_is_seen_growing_comes_in_pieces_only() -> None:
    job = submitter("a")
    job.stream()
    (sent,) = job.start(0, CONTENT)
    assert isinstance(sent, Send)
    assert isinstance(sent.message, Offer)
    assert not sent.message.takes_output

    assert (
        job.answer("a", Done(JOB_ID, 1, RESULT.cid, len(OUTPUT), RECORD, output=OUTPUT), 1) is None
    )


def test_an_outcome_is_told_with_its_output_or_without() -> None:
    bare = done_outcome()
    full = Outcome(bare.final_message(1, has_output=True), RESULT)

    for outcome in (bare, full):
        for fence in (1, 2):
            told = outcome.final_message(fence, has_output=True)
            assert isinstance(told, Done)
            assert (told.fence, told.output) == (fence, OUTPUT)
            untold = outcome.final_message(fence)
            assert isinstance(untold, Done)
            assert (untold.fence, untold.output) == (fence, None)
    assert full.final_message(1, has_output=True) is full.message


def test_a_failure_of_the_worker_is_tried_elsewhere_and_one_of_the_input_is_not() -> None:
    of_worker, of_input = running_job("a", "b"), running_job("a", "b")

    effects = of_worker.receive("a", failed(is_worker_fault=True), 1)
    assert of_input.receive("a", failed(is_worker_fault=False), 1) == [Send("a", Ack(JOB_ID, 1))]

    assert offered_to(effects) == ["b"]
    assert of_input.state is JobState.FAILED


def test_a_failure_on_a_named_peer_is_final() -> None:
    job = submitter("a", is_named=True)
    job.start(0)
    job.receive("a", lease(), 0)

    job.receive("a", failed(is_worker_fault=True), 1)

    assert job.state is JobState.FAILED
    assert job.failed is not None


def test_a_worker_that_has_seen_a_later_fence_gets_a_higher_one() -> None:
    job = submitter("a")
    job.start(0)

    (offer,) = job.receive("a", refuse(code="stale-fence", seen_fence=7), 0)

    assert isinstance(offer, Send)
    assert offer.message.fence == 8


def test_a_worker_cannot_raise_fences_for_ever() -> None:
    job = submitter("a")
    job.start(0)
    for _ in range(10):
        job.receive("a", refuse(job.fence, "stale-fence", seen_fence=job.fence + 5), 0)

    assert job.state is JobState.FAILED


def entrusted(peer: str = "a") -> SubmitterJob:
    """A job whose only candidate got the input with the offer."""
    job = submitter(peer)
    (sent,) = job.start(0, CONTENT)
    assert isinstance(sent, Send)
    assert isinstance(sent.message, Offer)
    assert sent.message.input == CONTENT
    return job


def test_a_last_resort_is_asked_alone_when_all_others_have_refused() -> None:
    job = SubmitterJob(TERMS, ["a", "b", "c"], 600, last_resorts={"c"})

    first = offered_to(job.start(0))
    job.receive("a", refuse(code="draining"), 0)
    last = offered_to(job.receive("b", refuse(code="unknown-model"), 0))

    assert first == ["a", "b"]
    assert last == ["c"]


def test_a_last_resort_is_not_asked_while_another_is_merely_busy() -> None:
    job = SubmitterJob(TERMS, ["a", "c"], 600, last_resorts={"c"})

    first = offered_to(job.start(0))
    again = job.receive("a", refuse(retry_after_ms=1_000), 0)

    assert first == ["a"]
    assert again == []
    assert offered_to(job.tick(1)) == ["a"]


def test_a_refusal_raises_the_fence_by_so_much_at_most() -> None:
    job = SubmitterJob(TERMS, ["a"], 600)
    job.start(0)

    job.receive("a", refuse(code="stale-fence", seen_fence=3 * MAX_FENCE_RISE), 0)
    once = job.fence
    job.receive("a", refuse(job.fence, "stale-fence", seen_fence=once + 7), 0)

    assert once == 1 + MAX_FENCE_RISE + 1
    assert job.fence == once + 8


def test_a_fence_that_no_job_can_have_is_a_violation_and_raises_nothing() -> None:
    job = SubmitterJob(TERMS, ["a", "b"], 600)
    job.start(0)

    (violation,) = job.receive("a", refuse(code="stale-fence", seen_fence=2**50), 0)
    job.receive("b", refuse(), 0)

    assert isinstance(violation, Violation)
    assert violation.error.code == "wrong-fence"
    assert job.fence == 1
    assert job.state is JobState.FAILED


def test_a_small_input_goes_along_with_the_offer_to_an_only_candidate() -> None:
    job = entrusted()
    assert job.state is JobState.OFFERED

    for message in results():
        assert job.receive("a", message, 1) == []

    assert job.state is JobState.DONE
    assert job.output() == OUTPUT
    assert (job.worker, job.attempts) == ("a", 1)


def test_where_there_is_a_choice_no_input_goes_along() -> None:
    offers = submitter("a", "b").start(0, CONTENT)

    assert [e.message.input for e in offers if isinstance(e, Send)] == [None, None]  # type: ignore[union-attr]


def test_who_was_entrusted_with_a_job_may_answer_as_to_any_offer() -> None:
    job = entrusted()

    assert job.receive("a", lease(needs_input=False), 1) == [Send("a", Accept(JOB_ID, 1))]
    assert job.state is JobState.LEASED

    job = entrusted()
    job.receive("a", refuse(code="unknown-model"), 1)

    assert job.state is JobState.FAILED
    assert job.attempts == 0, "a refusal is none"


def test_who_was_entrusted_with_a_job_is_stopped_for_it_may_be_at_work() -> None:
    stop = Send("a", Cancel(JOB_ID, 1))

    assert entrusted().cancel() == [stop]
    assert entrusted().tick(OFFER_ANSWER_S) == [stop]
    job = entrusted()
    job.tick(OFFER_ANSWER_S)
    assert job.refusals["a"].code == "no-answer"
    *_, done = results()
    assert [type(e) for e in job.receive("a", done, OFFER_ANSWER_S + 1)] == [Late, Send]


def test_an_entrusted_job_that_is_lost_is_an_attempt_lost() -> None:
    job = entrusted()

    effects = job.lost("a", "the session was lost", 1)

    assert offered_to(effects) == ["a"]
    assert (job.fence, job.attempts) == (2, 1)
    (sent,) = [e.message for e in effects if isinstance(e, Send)]
    assert isinstance(sent, Offer)
    assert sent.input is None, "what it has of the job is not known"


def test_cancelling_frees_whoever_holds_something_of_the_job() -> None:
    offered, running = submitter("a", "b"), running_job("a")
    offered.start(0)

    assert offered.cancel() == [Send("a", Release(JOB_ID, 1)), Send("b", Release(JOB_ID, 1))]
    assert running.cancel() == [Send("a", Cancel(JOB_ID, 1))]
    assert running.cancel() == []
    assert running.state is JobState.CANCELLED


# The worker


def grant(_submitter: str, _offer: Offer, _load: Load) -> Granted:
    return Granted(1.0, 1_000)


def worker_messages(effects: list[Effect]) -> list[object]:
    return [e.message for e in effects if isinstance(e, Send)]


def offer(fence: int = 1, budget_ms: int = 600_000) -> Offer:
    return TERMS.offer(fence, budget_ms)


def inputs(fence: int = 1) -> list[Input]:
    return [Input(JOB_ID, fence, p.index, p.body, p.digest) for p in INPUT.pieces()]


def test_an_output_grows_only_for_who_wants_to_see_it_and_comes_whole_to_the_other() -> None:
    jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
    jobs.receive("submitter", msgspec.structs.replace(offer(), stream=False), 0.0)
    jobs.receive("submitter", Accept(JOB_ID, 1), 0.0)
    (piece,) = INPUT.pieces()
    jobs.receive("submitter", Input(JOB_ID, 1, piece.index, piece.body, piece.digest), 0.0)
    job = jobs.get(KEY)
    assert job is not None

    unseen = jobs.emitted(job, OUTPUT[:4], 1.0)
    jobs.receive("submitter", offer(fence=2), 2.0)
    caught_up = jobs.receive("submitter", Accept(JOB_ID, 2), 2.0)
    seen = jobs.emitted(job, OUTPUT[4:], 3.0)

    assert unseen == []
    bodies = [m.body for m in worker_messages([*caught_up, *seen]) if isinstance(m, Chunk)]
    assert bodies == [OUTPUT[:4], OUTPUT[4:]]


def running_at(now: float, fence: int = 1) -> tuple[WorkerJobs, WorkerJob]:
    jobs = WorkerJobs(grant)
    for message in (offer(fence), Accept(JOB_ID, fence), *inputs(fence)):
        jobs.receive("submitter", message, now)
    job = jobs.get(KEY)
    assert job is not None
    assert job.state is JobState.RUNNING
    return jobs, job


def done_outcome() -> Outcome:
    return Outcome(Done(JOB_ID, 1, RESULT.cid, len(OUTPUT), RECORD), RESULT)


def test_a_worker_leases_then_starts_once_its_input_is_whole() -> None:
    jobs = WorkerJobs(grant)

    (first,) = jobs.receive("submitter", offer(), 0)
    assert first == Send("submitter", Lease(JOB_ID, 1, 1_000, 15_000, True))
    assert jobs.receive("submitter", Accept(JOB_ID, 1), 0) == []
    effects = [e for message in inputs() for e in jobs.receive("submitter", message, 0)]

    assert effects == [Start(KEY), Send("submitter", Renew(JOB_ID, 1, 0, 3))]


def whole_offer(fence: int = 1, content: bytes = CONTENT) -> Offer:
    return TERMS.offer(fence, 600_000, content)


def test_an_offer_with_its_input_runs_at_once_and_is_heard_of_after_a_moment() -> None:
    jobs = WorkerJobs(grant)

    assert jobs.receive("submitter", whole_offer(), 0) == [Start(KEY)]
    assert jobs.tick(RUN_SILENCE_S / 2) == []
    assert worker_messages(jobs.tick(RUN_SILENCE_S)) == [Renew(JOB_ID, 1, 0, 3)]

    job = jobs.get(KEY)
    assert job is not None
    assert job.take_input() == CONTENT
    assert jobs.finish(job, done_outcome(), 1) == [Deliver(KEY, 1)]


def test_an_input_in_an_offer_is_checked_like_any_other() -> None:
    jobs = WorkerJobs(grant)
    wrong = whole_offer(content=CONTENT.swapcase())

    (refused,) = worker_messages(jobs.receive("submitter", wrong, 0))

    assert isinstance(refused, Refuse)
    assert refused.code == "wrong-commitment"
    assert jobs.get(KEY) is None


def test_an_offer_with_its_input_of_a_known_job_is_like_any_other() -> None:
    jobs = WorkerJobs(grant)
    jobs.receive("submitter", whole_offer(), 0)

    (leased,) = worker_messages(jobs.receive("submitter", whole_offer(2), 1))

    assert isinstance(leased, Lease)
    assert not leased.needs_input


def test_admission_may_refuse() -> None:
    no = Refuse(JOB_ID, 1, "busy", "too much to do", 500)
    jobs = WorkerJobs(lambda *_: no)

    assert jobs.receive("submitter", offer(), 0) == [Send("submitter", no)]
    assert jobs.get(KEY) is None


def test_an_unaccepted_lease_dies_after_two_seconds_and_says_so_when_accepted_later() -> None:
    jobs = WorkerJobs(grant)
    jobs.receive("submitter", offer(), 0)

    assert jobs.next_deadline == LEASE_ACCEPT_S
    assert jobs.tick(LEASE_ACCEPT_S) == []
    (answer,) = worker_messages(jobs.receive("submitter", Accept(JOB_ID, 1), 3))

    assert isinstance(answer, Refuse)
    assert answer.code == "lease-over"


def test_release_frees_a_lease_but_not_an_accepted_job() -> None:
    jobs = WorkerJobs(grant)
    jobs.receive("submitter", offer(), 0)
    jobs.receive("submitter", Release(JOB_ID, 1), 0)
    assert jobs.get(KEY) is None

    jobs, job = running_at(0)
    jobs.receive("submitter", Release(JOB_ID, 1), 0)
    assert job.state is JobState.RUNNING


def test_an_input_that_is_not_the_committed_one_is_refused() -> None:
    jobs = WorkerJobs(grant)
    other = Outgoing.cut(b"i" * 16, b"x" * len(CONTENT))
    jobs.receive("submitter", offer(), 0)
    jobs.receive("submitter", Accept(JOB_ID, 1), 0)

    (piece,) = other.pieces()
    message = Input(JOB_ID, 1, 0, piece.body, piece.digest)
    (answer,) = worker_messages(jobs.receive("submitter", message, 0))

    assert isinstance(answer, Refuse)
    assert answer.code == "wrong-commitment"
    assert jobs.get(KEY) is None


def test_a_running_job_is_renewed_every_five_seconds_with_its_progress() -> None:
    jobs, job = running_at(0)
    job.progress = (2, 3)

    assert jobs.next_deadline == LEASE_RENEW_S
    assert jobs.tick(LEASE_RENEW_S) == [Send("submitter", Renew(JOB_ID, 1, 2, 3))]
    assert jobs.next_deadline == 2 * LEASE_RENEW_S


def test_a_repeated_offer_attaches_to_the_running_job_under_its_new_fence() -> None:
    jobs, job = running_at(0)
    jobs.detach(KEY, 1)

    (answer,) = worker_messages(jobs.receive("submitter", offer(2), 2))
    assert answer == Lease(JOB_ID, 2, 1_000, 15_000, False)
    assert jobs.finish(job, done_outcome(), 3) == []
    effects = jobs.receive("submitter", Accept(JOB_ID, 2), 3.5)

    assert effects == [Deliver(KEY, 2)]
    assert done_outcome().final_message(2).fence == 2


def test_an_outcome_is_replayed_until_it_is_acknowledged() -> None:
    jobs, job = running_at(0)
    assert jobs.finish(job, done_outcome(), 1) == [Deliver(KEY, 1)]
    jobs.detach(KEY, 2)

    jobs.receive("submitter", offer(2), 3)
    assert jobs.receive("submitter", Accept(JOB_ID, 2), 3) == [Deliver(KEY, 2)]
    jobs.receive("submitter", Ack(JOB_ID, 1), 4)
    assert jobs.get(KEY) is job
    jobs.receive("submitter", Ack(JOB_ID, 2), 4)

    assert jobs.get(KEY) is None
    assert jobs.kept_bytes == 0


def test_an_outcome_is_replayed_to_a_submitter_that_restarted_and_counts_from_one_again() -> None:
    jobs, job = running_at(0)
    jobs.finish(job, done_outcome(), 1)
    jobs.detach(KEY, 2)

    jobs.receive("submitter", offer(1), 3)

    assert jobs.receive("submitter", Accept(JOB_ID, 1), 3) == [Deliver(KEY, 1)]


def test_who_counts_fences_from_one_again_has_its_new_offer_listened_to() -> None:
    jobs = WorkerJobs(grant)
    jobs.receive("submitter", offer(budget_ms=1_000), 0)

    anew = msgspec.structs.replace(offer(budget_ms=600_000), stream=False)
    (answer,) = worker_messages(jobs.receive("submitter", anew, 0.5))
    for message in (Accept(JOB_ID, 1), *inputs()):
        jobs.receive("submitter", message, LEASE_ACCEPT_S)

    job = jobs.get(KEY)
    assert isinstance(answer, Lease)
    assert job is not None
    assert (job.deadline, job.is_streamed) == (600.5, False)
    assert job.state is JobState.RUNNING, "the lease is as new as the offer"


def test_who_comes_back_to_an_orphan_with_an_equal_fence_gives_it_its_new_time() -> None:
    jobs, job = running_at(0)
    jobs.detach(KEY, 1)

    jobs.receive("submitter", msgspec.structs.replace(offer(budget_ms=5_000), stream=False), 2)

    assert (job.deadline, job.is_streamed) == (7, False)
    assert job.orphan_at == 2 + ORPHAN_S


def test_an_offer_that_comes_twice_changes_nothing_of_a_job_that_was_accepted() -> None:
    jobs, job = running_at(0)

    (answer,) = worker_messages(jobs.receive("submitter", offer(budget_ms=5_000), 1))

    assert answer == Lease(JOB_ID, 1, 1_000, 15_000, False)
    assert job.deadline == 600
    assert job.lease.is_accepted


def test_an_outcome_that_nobody_wants_is_forgotten_after_an_hour() -> None:
    jobs, job = running_at(0)
    jobs.finish(job, done_outcome(), 1)

    jobs.tick(OUTCOME_KEEP_S)
    assert jobs.get(KEY) is job
    jobs.tick(1 + OUTCOME_KEEP_S)

    assert jobs.get(KEY) is None


def test_who_comes_for_an_outcome_when_its_hour_is_over_is_told_that_it_is_gone() -> None:
    jobs, job = running_at(0)
    jobs.finish(job, done_outcome(), 1)

    (told,) = worker_messages(jobs.tick(1 + OUTCOME_KEEP_S))

    assert isinstance(told, Failed)
    assert told.code == "outcome-dropped"


SHARE = MAX_OUTCOME_BYTES // 3 + 1
"""Bytes of an outcome of which two fit into what a worker keeps."""


def ended(
    jobs: WorkerJobs, number: int, who: str = "submitter", size_bytes: int = SHARE
) -> list[Effect]:
    """One more job runs to its end; its submitter listens."""
    terms = msgspec.structs.replace(TERMS, job_id=bytes([number]) * 16)
    jobs.receive(who, terms.offer(1, 60_000, CONTENT), 0)
    job = jobs.get((who, terms.job_id))
    assert job is not None
    output = Outgoing(bytes(size_bytes), RESULT.digests)
    return jobs.finish(job, Outcome(Done(terms.job_id, 1, RESULT.cid, 0, RECORD), output), number)


def known(jobs: WorkerJobs, who: str = "submitter") -> list[int]:
    return [n for n in range(9) if jobs.get((who, bytes([n]) * 16))]


def test_outcomes_over_the_limit_go_oldest_first_and_who_takes_one_in_is_told() -> None:
    jobs = WorkerJobs(grant)
    for number in (1, 2):
        ended(jobs, number)

    told, deliver = ended(jobs, 3)

    assert known(jobs) == [2, 3]
    assert jobs.kept_bytes == 2 * SHARE
    assert deliver == Deliver(("submitter", b"\x03" * 16), 1)
    assert isinstance(told, Send)
    assert isinstance(told.message, Failed)
    assert (told.message.job_id, told.message.fence) == (b"\x01" * 16, 1)
    assert told.message.code == "outcome-dropped"
    assert told.message.is_worker_fault
    assert told.message.record_cid == RECORD, "the run is on record"


def test_a_submitter_whose_outcome_was_dropped_asks_another_worker_at_once() -> None:
    jobs, job = running_at(0)
    asking = running_job("a", "b")
    huge = Outgoing(bytes(2 * SHARE), RESULT.digests)
    jobs.finish(job, replace(done_outcome(), output=huge), 0)

    told = worker_messages(ended(jobs, 1))[0]
    assert isinstance(told, Failed)

    assert offered_to(asking.receive("a", told, 1)) == ["b"]


def test_an_outcome_that_has_just_come_is_delivered_whoever_keeps_the_most() -> None:
    jobs = WorkerJobs(grant)
    for number, who in enumerate("abc"):
        ended(jobs, number, who, MAX_OUTCOME_BYTES // 4)

    *_, deliver = ended(jobs, 4, "d", MAX_OUTCOME_BYTES // 2)

    assert deliver == Deliver(("d", b"\x04" * 16), 1)
    assert known(jobs, "d") == [4]


def test_what_nobody_listens_for_goes_before_what_somebody_does_and_nobody_is_told() -> None:
    jobs = WorkerJobs(grant)
    for number in (1, 2):
        ended(jobs, number)
    jobs.detach(("submitter", b"\x02" * 16), 2)

    (effect,) = ended(jobs, 3)

    assert isinstance(effect, Deliver)
    assert known(jobs) == [1, 3]


def test_an_outcome_stays_while_its_acceptance_is_on_its_way() -> None:
    jobs = WorkerJobs(grant)
    for number in (1, 2):
        ended(jobs, number)
        jobs.detach(("submitter", bytes([number]) * 16), 2)
    again = msgspec.structs.replace(TERMS, job_id=b"\x01" * 16)
    jobs.receive("submitter", again.offer(2, 60_000), 3)

    ended(jobs, 3)

    assert known(jobs) == [1, 3]
    assert jobs.receive("submitter", Accept(b"\x01" * 16, 2), 4) == [
        Deliver(("submitter", b"\x01" * 16), 2)
    ]


def test_an_input_counts_from_its_lease_until_its_job_ends_however_it_ends() -> None:
    told: list[tuple[int, int]] = []

    def note(_submitter: str, _offer: Offer, load: Load) -> Granted:
        told.append((load.input_bytes, load.input_bytes_of_submitter))
        return Granted(1.0, 1_000)

    jobs, size = WorkerJobs(note), len(CONTENT)

    def asked() -> tuple[int, int]:
        """What another offer of the same submitter would be weighed against."""
        jobs.receive("submitter", msgspec.structs.replace(offer(), job_id=b"?" * 16), 0)
        jobs.receive("submitter", Cancel(b"?" * 16, 1), 0)
        return told[-1]

    jobs.receive("submitter", offer(), 0)
    jobs.receive("other", offer(), 0)
    assert asked() == (2 * size, size)
    jobs.receive("submitter", Release(JOB_ID, 1), 0)
    assert asked() == (size, 0)
    for message in (offer(), Accept(JOB_ID, 1), *inputs()):
        jobs.receive("submitter", message, 0)
    job = jobs.get(KEY)
    assert job is not None
    job.take_input()
    assert asked() == (2 * size, size), "its runner has it now"
    jobs.finish(job, done_outcome(), 1)
    assert asked() == (size, 0)
    jobs.tick(LEASE_ACCEPT_S)
    assert asked() == (0, 0)


def test_another_specification_under_the_same_key_is_refused() -> None:
    jobs, _ = running_at(0)
    other = Terms(JOB_ID, "embed", "other", "auto", 3, 10, INPUT.cid, b"i" * 16, b"o" * 16)

    (answer,) = worker_messages(jobs.receive("submitter", other.offer(2, 1_000), 0))

    assert isinstance(answer, Refuse)
    assert answer.code == "other-specification"


def test_two_submitters_may_use_the_same_job_id() -> None:
    jobs, _ = running_at(0)

    (answer,) = worker_messages(jobs.receive("somebody else", offer(), 0))

    assert isinstance(answer, Lease)
    assert jobs.unfinished == 2


def test_an_old_fence_starts_and_stops_nothing() -> None:
    jobs, job = running_at(0, fence=3)

    (answer,) = worker_messages(jobs.receive("submitter", offer(2), 0))
    for message in (Cancel(JOB_ID, 2), Release(JOB_ID, 2), Ack(JOB_ID, 2)):
        assert jobs.receive("submitter", message, 0) == []

    assert answer == Refuse(JOB_ID, 2, "stale-fence", "a later attempt was offered", 0, 3)
    assert job.state is JobState.RUNNING


def test_cancel_stops_a_running_job_and_nothing_of_it_is_kept() -> None:
    jobs, job = running_at(0)

    assert jobs.receive("submitter", Cancel(JOB_ID, 1), 1) == [Stop(KEY)]
    assert jobs.finish(job, done_outcome(), 2) == []
    assert jobs.get(KEY) is None
    assert job.state is JobState.CANCELLED


def test_an_orphan_is_stopped_after_half_a_minute() -> None:
    jobs, _ = running_at(0)
    jobs.detach(KEY, 1)

    assert jobs.tick(ORPHAN_S) == []
    assert jobs.tick(1 + ORPHAN_S) == [Stop(KEY)]


def test_a_job_whose_time_runs_out_is_stopped_and_its_submitter_told() -> None:
    jobs = WorkerJobs(grant)
    for message in (offer(budget_ms=2_000), Accept(JOB_ID, 1), *inputs()):
        jobs.receive("submitter", message, 0)

    tell, stop = jobs.tick(2)

    assert isinstance(tell, Send)
    assert isinstance(tell.message, Failed)
    assert tell.message.code == "expired"
    assert stop == Stop(KEY)


def test_an_input_that_stops_coming_ends_the_lease() -> None:
    jobs = WorkerJobs(grant)
    jobs.receive("submitter", offer(), 0)
    jobs.receive("submitter", Accept(JOB_ID, 1), 0)
    jobs.tick(5)
    jobs.tick(10)

    (answer,) = worker_messages(jobs.tick(LEASE_TTL_S))

    assert isinstance(answer, Refuse)
    assert answer.code == "lease-over"


def test_a_candidate_that_is_not_there_is_replaced_at_once() -> None:
    job = submitter(*"abcde")
    job.start(0)

    assert offered_to(job.lost("a", "nobody answers there", 1)) == ["d"]
    job.receive("b", lease(eta_ms=50), 1.1)
    assert offered_to(job.lost("c", "nobody answers there", 1.2)) == ["e"]
    job.receive("d", lease(eta_ms=20), 1.3)
    job.tick(1.1 + LEASE_CHOICE_S)

    assert job.worker == "d"
    assert set(job.refusals) == {"a", "c"}


# What placement learns


def test_what_became_of_each_worker_is_noted_once() -> None:
    job = submitter("a", "b")
    job.start(0)
    job.receive("a", lease(), 0)
    job.tick(LEASE_CHOICE_S)
    job.lost("a", "gone", 1)
    job.receive("b", lease(2), 2)
    job.tick(2 + LEASE_TTL_S)
    job.receive("a", lease(3), 20)
    job.tick(20 + LEASE_CHOICE_S)
    for message in results(3):
        job.receive("a", message, 30)

    assert list(job.signs) == [
        ("a", Sign.ACCEPTED),
        ("a", Sign.LOST),
        ("b", Sign.ACCEPTED),
        ("b", Sign.SILENT),
        ("a", Sign.ACCEPTED),
        ("a", Sign.DONE),
    ]


def test_an_offer_without_an_answer_is_noted_and_a_cancelled_attempt_blames_nobody() -> None:
    job = submitter("a", "b")
    job.start(0)
    job.receive("a", lease(), OFFER_ANSWER_S - 0.1)
    job.cancel()
    silent = submitter("a")
    silent.start(0)
    silent.tick(OFFER_ANSWER_S)
    running = running_job("a")
    running.cancel()

    assert list(job.signs) == []
    assert list(silent.signs) == [("a", Sign.UNANSWERED)]
    assert list(running.signs) == [("a", Sign.ACCEPTED), ("a", Sign.ENDED)]


def test_a_job_that_its_worker_spoils_is_retried_only_within_the_budget() -> None:
    lost, spoiled = running_job("a", "b"), running_job("a", "b")
    for job in (lost, spoiled):
        job.may_retry = lambda _now: False

    lost.lost("a", "gone", 1)
    spoiled.receive("a", failed(is_worker_fault=True), 1)

    assert lost.state is JobState.OFFERED
    assert spoiled.state is JobState.FAILED
    assert spoiled.is_out_of_retries
    assert spoiled.signs[-1] == ("a", Sign.FAULT)


def test_the_last_worker_is_not_out_of_retries() -> None:
    job = running_job("a")
    job.may_retry = lambda _now: False

    job.receive("a", failed(is_worker_fault=True), 1)

    assert job.state is JobState.FAILED
    assert not job.is_out_of_retries
