import pytest
from hypothesis import given, strategies as st

from protocols.cid import CID
from protocols.job import Cancel, Chunk, Done, Lease, Offer, Refuse, Renew, Terms
from protocols.limits import (
    FIRST_PROGRESS_S,
    INPUT_BYTES_PER_S_MIN,
    LEASE_RENEW_S,
    MAX_JOB_INPUT_BYTES,
    STALL_S_MIN,
)
from protocols.pieces import Outgoing
from protocols.progress import ProgressBudget
from protocols.session import Effect, JobState, Lost, Send
from protocols.submitter_job import SubmitterJob

JOB_ID = b"j" * 16
OUTPUT = Outgoing.cut(b"o" * 16, bytes(200_000))
TERMS = Terms(JOB_ID, "embed", "m", "auto", 100, 0, CID.of(b""), b"i" * 16, b"o" * 16)


# The budget


@pytest.mark.parametrize(
    ("eta_s", "first_s"), [(0.0, FIRST_PROGRESS_S), (0.01, STALL_S_MIN), (100.0, 300.0)]
)
def test_the_first_step_may_take_three_estimates_or_a_load_when_there_is_none(
    eta_s: float, first_s: float
) -> None:
    budget = ProgressBudget(5.0, eta_s)

    assert not budget.is_over(4.9 + first_s)
    assert budget.is_over(5.0 + first_s)


def test_an_input_on_its_way_over_a_slow_link_is_no_stall() -> None:
    budget = ProgressBudget(0.0, 1.0, MAX_JOB_INPUT_BYTES)

    assert budget.ends_at == STALL_S_MIN + MAX_JOB_INPUT_BYTES / INPUT_BYTES_PER_S_MIN
    budget.moved(100.0)
    assert budget.ends_at == 100.0 + STALL_S_MIN


def test_a_worker_without_an_estimate_is_held_to_three_times_its_own_first_step() -> None:
    slow, quick = ProgressBudget(0.0), ProgressBudget(0.0)

    slow.items_are_done(1, 50.0)
    quick.items_are_done(1, 0.1)

    assert slow.ends_at == 50.0 + 150.0
    assert quick.ends_at == 0.1 + STALL_S_MIN


def test_only_a_count_that_rises_is_progress() -> None:
    budget = ProgressBudget(0.0, 1.0)
    budget.items_are_done(2, 10.0)

    for count in (0, 1, 2):
        budget.items_are_done(count, 20.0)
    assert budget.ends_at == 10.0 + STALL_S_MIN

    budget.items_are_done(3, 20.0)
    assert budget.ends_at == 20.0 + STALL_S_MIN


@given(
    eta_s=st.floats(0, 86_400), steps=st.lists(st.tuples(st.floats(0.001, 29.9), st.integers(0, 9)))
)
def test_whoever_moves_every_half_minute_is_never_out_of_budget(
    eta_s: float, steps: list[tuple[float, int]]
) -> None:
    now, budget, done = 0.0, ProgressBudget(0.0, eta_s), 0
    for wait_s, more in steps:
        now, done = now + wait_s, done + 1 + more
        assert not budget.is_over(now)
        budget.items_are_done(done, now)


# The job


def leased(*others: str, eta_ms: int = 1_000) -> SubmitterJob:
    job = SubmitterJob(TERMS, ["a", *others], 86_400.0)
    job.start(0)
    for other in others:
        job.lost(other, "unreachable", 0)
    job.receive("a", Lease(JOB_ID, 1, eta_ms, 15_000), 0)
    assert job.worker == "a"
    return job


def renewing(job: SubmitterJob, until_s: float, items: int = 0) -> list[Effect]:
    """What a worker that gives signs of life in time gets to see."""
    now, effects = 0.0, list[Effect]()
    while now < until_s and not effects:
        now += LEASE_RENEW_S
        effects = job.receive("a", Renew(JOB_ID, job.fence, items, 100), now) + job.tick(now)
    return effects


def test_a_worker_that_renews_without_progress_loses_the_job() -> None:
    job = leased("b")

    cancel, lost, *offers = renewing(job, STALL_S_MIN)

    assert cancel == Send("a", Cancel(JOB_ID, 1))
    assert lost == Lost("a", 1, "it made no progress for 30 s")
    assert [e.peer for e in offers if isinstance(e, Send) and isinstance(e.message, Offer)] == ["b"]


def test_a_worker_that_stays_where_it_is_loses_the_job_a_stall_after_its_last_step() -> None:
    job = leased()

    assert renewing(job, STALL_S_MIN, items=1) == []
    assert job.next_deadline == LEASE_RENEW_S + STALL_S_MIN
    assert Lost("a", 1, "it made no progress for 30 s") in job.tick(LEASE_RENEW_S + STALL_S_MIN)


def test_a_worker_that_knows_no_estimate_may_load_its_model_first() -> None:
    job = leased(eta_ms=0)

    assert renewing(job, FIRST_PROGRESS_S - LEASE_RENEW_S) == []
    assert job.state is JobState.RUNNING
    assert Lost("a", 1, "it made no progress for 120 s") in job.tick(FIRST_PROGRESS_S)


def test_a_worker_that_stalls_behind_its_first_chunk_loses_the_job() -> None:
    job = leased()
    first, *_ = [Chunk(JOB_ID, 1, p.index, p.body, p.digest) for p in OUTPUT.pieces()]
    job.receive("a", first, 10.0)

    for now in (15.0, 20.0, 25.0, 30.0, 35.0):
        assert job.receive("a", first, now) == [], "the same chunk again is no progress"
        assert job.tick(now) == []

    assert Lost("a", 1, "it made no progress for 30 s") in job.tick(10.0 + STALL_S_MIN)


def test_each_new_chunk_gives_the_next_one_its_time() -> None:
    job = leased()
    for number, p in enumerate(OUTPUT.pieces(), 1):
        now = number * (STALL_S_MIN - 1)
        for earlier in (now - 20, now - 10):
            job.receive("a", Renew(JOB_ID, 1, 0, 100), earlier)
        assert job.tick(now) == []
        job.receive("a", Chunk(JOB_ID, 1, p.index, p.body, p.digest), now)

    done = Done(JOB_ID, 1, bytes(OUTPUT.cid), 200_000, bytes(OUTPUT.cid))
    job.receive("a", done, now)

    assert job.state is JobState.DONE


def test_a_new_attempt_has_a_budget_of_its_own() -> None:
    job = leased("b")
    job.tick(14.0)
    job.lost("a", "the session was lost", 14.0)
    job.receive("b", Lease(JOB_ID, 2, 20_000, 15_000), 14.0)

    for now in (20.0, 30.0, 40.0, 50.0, 60.0, 70.0):
        job.receive("b", Renew(JOB_ID, 2, 0, 100), now)
        assert job.tick(now) == []

    assert Lost("b", 2, "it made no progress for 60 s") in job.tick(74.0)


def test_a_worker_that_stalled_is_not_asked_again_while_another_is_only_busy() -> None:
    job = leased("b")
    job.tick(LEASE_RENEW_S)
    renewing(job, STALL_S_MIN)
    assert job.fence == 2

    waiting = job.receive("b", Refuse(JOB_ID, 2, "busy", "2 s of work", 2_000), STALL_S_MIN)
    again = job.tick(STALL_S_MIN + 2)
    alone = job.receive("b", Refuse(JOB_ID, 2, "draining", "it stops"), STALL_S_MIN + 2)

    assert waiting == []
    assert [e.peer for e in again if isinstance(e, Send)] == ["b"]
    assert [e.peer for e in alone if isinstance(e, Send)] == ["a"], "better than nobody"
