import pytest

from protocols.attempt import AttemptClock
from protocols.cid import CID
from protocols.job import Lease, Terms
from protocols.limits import (
    CHUNK_WITHIN_S,
    INPUT_BYTES_PER_S_MIN,
    LEASE_RENEW_S,
    PROGRESS_ETA_FACTOR,
    PROGRESS_WITHIN_S,
    UNMEASURED_PROGRESS_S,
)


def attempt(
    eta_s: float = 1.0, size_bytes: int = 0, *, needs_input: bool = True, is_measured: bool = True
) -> AttemptClock:
    cid = bytes(CID.of(b""))
    terms = Terms(b"j" * 16, "embed", "m", "auto", 9, size_bytes, cid, b"i" * 16, b"o" * 16)
    lease = Lease(b"j" * 16, 1, int(eta_s * 1_000), 15_000, needs_input, is_measured)
    return AttemptClock.of(lease, terms, 0.0)


def lost_at(clock: AttemptClock, since: float = 0.0) -> float:
    """When the attempt is lost if its worker renews for ever and nothing moves."""
    now = since
    clock.heard(now)
    while clock.why_over(now) is None:
        now = min(now + LEASE_RENEW_S, clock.ends_at)
        clock.heard(now)
    return now


def test_silence_ends_an_attempt_with_its_lease() -> None:
    clock = attempt()

    assert clock.ends_at == 15.0
    assert clock.why_over(14.9) is None
    assert clock.why_over(15.0) == "its lease ended in silence"


def test_signs_of_life_without_progress_are_not_enough() -> None:
    clock = attempt()

    assert lost_at(clock) == PROGRESS_WITHIN_S
    assert clock.why_over(PROGRESS_WITHIN_S) == "it made no progress for 30 s"


@pytest.mark.parametrize(
    ("clock", "patience_s"),
    [
        (attempt(eta_s=3_600.0), PROGRESS_ETA_FACTOR * 3_600.0),
        (attempt(eta_s=0.0, is_measured=False), UNMEASURED_PROGRESS_S),
        (attempt(size_bytes=100 * INPUT_BYTES_PER_S_MIN), PROGRESS_WITHIN_S + 100),
        (attempt(size_bytes=100 * INPUT_BYTES_PER_S_MIN, needs_input=False), PROGRESS_WITHIN_S),
    ],
    ids=[
        "a long job",
        "a model that was never measured",
        "a large input",
        "an input that is here",
    ],
)
def test_patience_grows_with_what_the_attempt_has_to_do(
    clock: AttemptClock, patience_s: float
) -> None:
    assert lost_at(clock) == patience_s


def test_items_done_are_progress_and_the_same_number_again_is_none() -> None:
    clock = attempt()

    clock.came_to(1, 10.0)
    clock.came_to(1, 20.0)

    assert lost_at(clock, 20.0) == 10.0 + PROGRESS_WITHIN_S


def test_between_two_pieces_of_output_there_is_no_computing_to_wait_for() -> None:
    clock = attempt(eta_s=3_600.0)

    clock.received(10, 1_000.0)
    clock.received(10, 1_020.0)

    assert lost_at(clock, 1_020.0) == 1_000.0 + CHUNK_WITHIN_S
