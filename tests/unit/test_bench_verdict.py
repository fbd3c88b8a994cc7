from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from node.benchmarks.verdict import compare, judge
from tests.support.benchmarks import figure, row

RATE, LATENCY = "matmul_fp32_one_thread_gflops", "batch_1_latency_ms"


def rate(*samples: float):
    return figure(RATE, *samples)


def latency(*samples: float):
    return figure(LATENCY, *samples, is_higher_better=False)


# Repeating


@pytest.mark.parametrize(
    ("before", "after", "change", "is_passed"),
    [
        (100.0, 100.0, 0.0, True),
        (100.0, 110.0, 10.0, True),
        (110.0, 100.0, -9.09, True),
        (100.0, 110.1, 10.1, False),
        (110.1, 100.0, -9.17, False),
        (4.0, 8.0, 100.0, False),
    ],
)
def test_one_median_may_be_above_the_other_by_the_tolerance(
    before: float, after: float, change: float, is_passed: bool
) -> None:
    verdict = judge(row(rate(before)), row(rate(after)), 10.0)

    (told,) = verdict["figures"]
    assert told["change_percent"] == change
    assert told["is_passed"] is verdict["is_passed"] is is_passed
    larger, smaller = max(before, after), min(before, after)
    assert verdict["worst_apart_percent"] == round((larger / smaller - 1) * 100, 2)
    assert verdict["tolerance_percent"] == 10.0


def test_one_figure_outside_fails_the_whole() -> None:
    verdict = judge(row(rate(10.0), latency(5.0)), row(rate(10.0), latency(9.0)), 25.0)

    assert [each["is_passed"] for each in verdict["figures"]] == [True, False]
    assert not verdict["is_passed"]
    assert verdict["worst_apart_percent"] == 80.0


def test_a_rate_and_the_time_that_it_takes_pass_or_fail_together() -> None:
    verdict = judge(row(rate(10.0), latency(0.1)), row(rate(15.0), latency(0.1 / 1.5)), 40.0)

    assert [each["apart_percent"] for each in verdict["figures"]] == [50.0, 50.0]
    assert [each["is_passed"] for each in verdict["figures"]] == [False, False]


def test_a_figure_that_is_gone_fails() -> None:
    verdict = judge(row(rate(10.0), latency(5.0)), row(rate(10.0)), 25.0)

    gone = verdict["figures"][1]
    assert (gone["after"], gone["change_percent"], gone["is_passed"]) == (None, None, False)
    assert not verdict["is_passed"]


def test_a_noisy_figure_is_called_so_whichever_of_both_it_was() -> None:
    steady, noisy = rate(99.0, 100.0, 101.0), rate(50.0, 100.0, 150.0)

    assert not judge(row(steady), row(steady), 5.0)["figures"][0]["is_noisy"]
    for before, after in ((steady, noisy), (noisy, steady)):
        told = judge(row(before), row(after), 5.0)["figures"][0]
        assert told["is_noisy"]
        assert told["is_passed"]


def test_what_changed_about_the_run_is_told() -> None:
    before = row(execution={"engine": "torch 2.12", "threads": 2}, software="covey 1")
    after = row(execution={"engine": "torch 2.13", "threads": 2, "nice": 10}, software="covey 1")

    changed = judge(before, after, 5.0)["changed"]

    assert changed == {"engine": ["torch 2.12", "torch 2.13"], "nice": [None, 10]}


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.floats(1.0, 500.0))
def test_it_passes_exactly_inside_the_tolerance(before: float, after: float, within: float) -> None:
    verdict = judge(row(rate(before)), row(rate(after)), within)

    told = verdict["figures"][0]
    assert verdict["is_passed"] is (told["apart_percent"] <= within)
    assert told["apart_percent"] >= abs(told["change_percent"]) - 0.01
    assert told["change_percent"] == pytest.approx(
        (told["after"] / told["before"] - 1) * 100, abs=0.01
    )


# Comparing


def test_columns_are_held_against_the_first_with_the_spread_said() -> None:
    slow, fast = rate(9.0, 10.0, 11.0), rate(18.0, 20.0, 22.0)

    (told,) = compare([[row(slow)], [row(fast)], [row(slow)]])

    first, second, third = told["cells"]
    assert told["figure"] == RATE
    assert (first["ratio"], first["verdict"]) == (None, None)
    assert (second["ratio"], second["verdict"]) == (2.0, "better")
    assert (third["ratio"], third["verdict"]) == (1.0, "within-spread")
    assert (second["spread_percent"], second["n"]) == (10.0, 3)


def test_a_longer_latency_is_worse() -> None:
    (told,) = compare([[row(latency(5.0))], [row(latency(9.0))]])

    assert told["cells"][1]["verdict"] == "worse"


def test_a_difference_inside_the_spread_is_none() -> None:
    (told,) = compare([[row(rate(5.0, 10.0, 15.0))], [row(rate(9.0, 14.0, 19.0))]])

    assert told["cells"][1]["verdict"] == "within-spread"
    assert told["cells"][1]["ratio"] == 1.4


def test_other_parameters_are_not_compared_but_for_how_long_it_was_measured() -> None:
    one = row(parameters={"size": 768, "seconds": 0.5})
    longer = row(parameters={"size": 768, "seconds": 5.0})
    larger = row(parameters={"size": 1_024, "seconds": 0.5})

    (told,) = compare([[one], [longer], [larger]])

    assert [cell["verdict"] for cell in told["cells"]] == [None, "within-spread", "incomparable"]
    assert told["cells"][2]["ratio"] is None


def test_what_a_column_lacks_is_left_open_and_the_next_one_is_the_first() -> None:
    fp32 = row(rate(10.0), kind="bench.model", model="minilm", precision="fp32")
    bf16 = row(rate(30.0), kind="bench.model", model="minilm", precision="bf16")

    compared = compare([[fp32], [bf16], [fp32, bf16]])

    cells = {each["precision"]: each["cells"] for each in compared}
    assert cells["fp32"][1] is None
    assert cells["bf16"][0] is None
    assert cells["bf16"][1]["ratio"] is None
    assert cells["bf16"][2]["ratio"] == 1.0
