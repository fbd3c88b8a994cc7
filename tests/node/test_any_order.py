"""Whatever order, repetition, loss and split bundles arrive in: the same set, the same answers.

``make soak`` tries a thousand sets with the same code.
"""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from tests.support.record_sets import check, deliveries, record_sets


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_the_order_in_which_records_came_never_shows(data: st.DataObject) -> None:
    bundles = data.draw(record_sets())
    one, other = (data.draw(deliveries(len(bundles))) for _ in range(2))

    check(bundles, one, other)
