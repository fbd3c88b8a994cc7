"""Losses as they are stated, and ranges without what is known of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from protocols.chain import Range, beyond, covers, merge
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_LOST_NAMED, MAX_LOST_RECORDS
from protocols.loss import Loss

RANGES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda one: (one[0], one[0] + one[1])),
    max_size=8,
)


def within(ranges: list[Range]) -> set[int]:
    return {sequence for first, end in ranges for sequence in range(first, end)}


@given(RANGES, RANGES)
def test_beyond_is_what_no_known_range_has(known: list[Range], ranges: list[Range]) -> None:
    left = beyond(known, ranges)

    assert within(left) == within(ranges) - within(known)
    assert all(first < end for first, end in left)


@given(RANGES, RANGES)
def test_a_range_is_covered_when_nothing_of_it_lies_beyond(
    known: list[Range], ranges: list[Range]
) -> None:
    for one in ranges:
        assert covers(merge(known), *one) is (beyond(known, [one]) == [])


def stated(first: int = 2, end: int = 4, **more: Any) -> dict[str, Any]:
    return {"epoch": 3, "first_sequence": first, "next_sequence": end, **more}


def test_a_loss_is_read_as_it_was_written() -> None:
    loss = Loss(**stated(records=(CID.of(b"one"),)))

    assert Loss.from_attributes(loss.to_attributes()) == loss


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        stated(2, 2),
        stated(4, 2),
        stated(0, MAX_LOST_RECORDS + 1),
        stated(-1, 2),
        stated(records=[CID.of(b"one")] * (MAX_LOST_NAMED + 1)),
    ],
)
def test_what_is_no_loss_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        Loss.from_attributes(attributes)


@pytest.mark.parametrize(
    ("place", "is_before"), [((3, 4), True), ((4, 0), True), ((3, 3), False), ((2, 9), False)]
)
def test_a_loss_stands_before_what_comes_later_in_its_feed(
    place: tuple[int, int], is_before: bool
) -> None:
    assert Loss(**stated()).stands_before(*place) is is_before
