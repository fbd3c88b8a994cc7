"""What a job will cost, told from those before it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from node.throughput import Throughput


def test_nothing_is_expected_of_a_model_that_never_ran():
    assert Throughput().estimate_s("m", units=1, size_bytes=10, is_warm=True) is None


def test_what_every_job_costs_is_told_from_what_work_adds():
    throughput = Throughput()
    for size in (0, 1_000, 2_000, 5_000):
        throughput.observe("m", units=1, size_bytes=size, busy_s=0.010 + (size + 8) * 1e-4)

    estimate = throughput.estimate_s("m", units=1, size_bytes=100_000, is_warm=True)

    assert estimate == pytest.approx(0.010 + 100_008 * 1e-4, rel=0.01)


def test_short_jobs_do_not_make_a_long_one_look_endless():
    throughput = Throughput()
    throughput.observe("m", units=1, size_bytes=20, busy_s=0.011)

    estimate = throughput.estimate_s("m", units=20, size_bytes=1_000, is_warm=True)

    assert estimate is not None
    assert estimate < 0.1


def test_of_a_job_far_beyond_all_that_were_seen_nothing_is_expected():
    throughput = Throughput()
    throughput.observe("m", units=1, size_bytes=3, busy_s=0.5)

    assert throughput.estimate_s("m", units=6_000, size_bytes=600_000, is_warm=True) is None


def test_a_cold_runner_is_expected_to_load_first():
    throughput = Throughput()
    throughput.observe("m", units=2, size_bytes=84, busy_s=1.0)
    throughput.observe_load("m", 3.0)

    warm = throughput.estimate_s("m", units=2, size_bytes=84, is_warm=True)
    cold = throughput.estimate_s("m", units=2, size_bytes=84, is_warm=False)

    assert (warm, cold) == (pytest.approx(1.0), pytest.approx(4.0))


def test_a_machine_that_became_slower_is_noticed():
    throughput = Throughput()
    for busy_s in [0.1] * 20 + [0.4] * 20:
        throughput.observe("m", units=10, size_bytes=1_000, busy_s=busy_s)

    estimate = throughput.estimate_s("m", units=10, size_bytes=1_000, is_warm=True)

    assert estimate == pytest.approx(0.4, rel=0.2)


@settings(deadline=None)  # the first example pays for imports
@given(
    st.lists(
        st.tuples(st.integers(1, 1_000), st.integers(0, 1 << 20), st.floats(0, 1e3)), min_size=1
    ),
    st.integers(1, 1_000),
    st.integers(0, 1 << 20),
)
def test_an_estimate_is_never_negative(jobs: list[tuple[int, int, float]], items: int, size: int):
    throughput = Throughput()
    for job_items, job_size, busy_s in jobs:
        throughput.observe("m", units=job_items, size_bytes=job_size, busy_s=busy_s)

    estimate = throughput.estimate_s("m", units=items, size_bytes=size, is_warm=True)

    assert estimate is None or estimate >= 0


def test_a_job_that_filled_batches_tells_of_any_larger_one():
    throughput = Throughput()
    throughput.observe("m", units=1_000, size_bytes=50_000, busy_s=5.8)

    estimate = throughput.estimate_s("m", units=90_000, size_bytes=4_500_000, is_warm=True)

    assert estimate == pytest.approx(522, rel=0.05)
