from typing import Any

import pytest
from hypothesis import given, strategies as st

from node.runner.comparison import compare_rows

ROW = {"index": 0, "label": "sport", "scores": {"sport": 0.75, "art": 0.25}}
numbers = st.floats(-1, 1)
values = st.recursive(
    st.one_of(numbers, st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(values, max_size=3))
def test_an_output_is_not_apart_from_itself(rows: list[Any]) -> None:
    assert compare_rows(rows, rows, 0.0) == (0.0, True, "")


def test_the_largest_difference_of_numbers_counts() -> None:
    other = {**ROW, "scores": {"art": 0.26, "sport": 0.72}}

    difference = compare_rows([ROW, ROW], [ROW, other], 0.01)

    assert difference.amount == pytest.approx(0.03)
    assert not difference.is_within
    assert difference.told == "they part at item 1"
    assert compare_rows([ROW], [other], 0.05).is_within


@pytest.mark.parametrize(
    "other",
    [
        {**ROW, "label": "art"},
        {**ROW, "scores": {"sport": 0.75}},
        {**ROW, "index": 1},
        {**ROW, "scores": [0.75, 0.25]},
    ],
)
def test_what_is_no_number_must_be_the_same(other: dict[str, Any]) -> None:
    assert compare_rows([ROW], [other], 1.0) == (None, False, "item 0 is not the same")


def test_a_missing_row_is_no_small_difference() -> None:
    assert compare_rows([ROW], [ROW, ROW], 1.0) == (None, False, "item 1 is not the same")
