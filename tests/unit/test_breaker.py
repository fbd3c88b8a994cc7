import itertools
import random

from node.breaker import Breakers
from node.retries import RetryBudget
from protocols.limits import (
    BREAKER_FAILURES,
    BREAKER_OPEN_S_MAX,
    BREAKER_OPEN_S_MIN,
    BREAKER_TRIAL_S,
    RETRY_BURST,
    RETRY_FLOOR,
    RETRY_REGAIN_S,
)

KEY = ("peer", "m")


def open_s(breakers: Breakers, now: float) -> float:
    """For how long the peer is left alone."""
    after = now
    while breakers.why_open(KEY, after) is not None:
        after += 0.25
    return after - now


def test_it_opens_after_three_failures_in_a_row_and_a_result_closes_it() -> None:
    breakers = Breakers(random.Random(1))
    for _ in range(BREAKER_FAILURES - 1):
        breakers.failed(KEY, 0.0)
    breakers.succeeded(KEY)
    for _ in range(BREAKER_FAILURES - 1):
        breakers.failed(KEY, 0.0)

    assert breakers.why_open(KEY, 0.0) is None
    breakers.failed(KEY, 0.0)
    assert str(breakers.why_open(KEY, 0.0)).startswith(
        "failed 3 times in a row, and is tried again in"
    )
    assert breakers.why_open(("peer", "other"), 0.0) is None
    breakers.succeeded(KEY)
    assert breakers.why_open(KEY, 0.0) is None


def test_one_silence_opens_it() -> None:
    breakers = Breakers(random.Random(1))

    breakers.silent(KEY, 0.0)

    assert str(breakers.why_open(KEY, 1.0)).startswith("did not answer")
    assert 0.7 * BREAKER_OPEN_S_MIN <= open_s(breakers, 0.0) <= 1.3 * BREAKER_OPEN_S_MIN


def test_half_open_one_trial_is_let_through_at_a_time() -> None:
    breakers = Breakers(random.Random(1))
    breakers.silent(KEY, 0.0)
    half_open = open_s(breakers, 0.0)

    breakers.claim_trial(KEY, half_open)

    assert breakers.why_open(KEY, half_open) is not None
    assert open_s(breakers, half_open) <= BREAKER_TRIAL_S + 0.25, "a trial that tells nothing"


def test_each_failed_trial_doubles_the_time_up_to_a_limit() -> None:
    breakers = Breakers(random.Random(1))
    breakers.silent(KEY, 0.0)
    now, times = 0.0, [open_s(breakers, 0.0)]

    for _ in range(10):
        now += times[-1]
        breakers.claim_trial(KEY, now)
        breakers.failed(KEY, now)
        times.append(open_s(breakers, now))

    assert all(a < b for a, b in itertools.pairwise(times[:5]))
    assert max(times) <= 1.25 * BREAKER_OPEN_S_MAX + 0.25
    assert len(set(times)) == len(times), "no two peers come back at the same moment"


def test_failures_of_jobs_that_were_under_way_do_not_lengthen_it() -> None:
    breakers = Breakers(random.Random(1))
    breakers.silent(KEY, 0.0)
    before = open_s(breakers, 0.0)

    for _ in range(20):
        breakers.failed(KEY, 0.1)

    assert open_s(breakers, 0.0) == before


def test_retries_are_a_tenth_of_the_jobs() -> None:
    budget = RetryBudget()

    retries = 0
    for _ in range(1_000):
        budget.earn()
        retries += budget.take(0.0)

    assert 100 <= retries <= 100 + RETRY_FLOOR


def test_a_lone_job_may_use_its_attempts_and_the_floor_comes_back_with_time() -> None:
    budget = RetryBudget()

    assert [budget.take(0.0) for _ in range(RETRY_FLOOR + 1)] == [True] * RETRY_FLOOR + [False]
    assert budget.take(RETRY_REGAIN_S)
    assert not budget.take(RETRY_REGAIN_S)
    assert [budget.take(1e6) for _ in range(RETRY_FLOOR + 1)] == [True] * RETRY_FLOOR + [False]


def test_no_more_than_a_burst_is_saved_up() -> None:
    budget = RetryBudget()

    for _ in range(10_000):
        budget.earn()

    assert sum(budget.take(0.0) for _ in range(100)) == RETRY_BURST


def test_a_silent_peer_that_says_hello_is_tried_at_once_and_one_that_fails_is_not() -> None:
    breakers = Breakers(random.Random(1))
    breakers.silent(KEY, 0.0)
    for _ in range(BREAKER_FAILURES):
        breakers.failed(("other", "m"), 0.0)

    for peer in ("peer", "other"):
        breakers.met(peer, 1.0)

    assert breakers.why_open(KEY, 1.0) is None
    assert breakers.why_open(("other", "m"), 1.0) is not None
    breakers.claim_trial(KEY, 1.0)
    assert breakers.why_open(KEY, 1.0) is not None, "one trial at a time"
    breakers.silent(KEY, 2.0)
    assert open_s(breakers, 2.0) > BREAKER_OPEN_S_MIN
