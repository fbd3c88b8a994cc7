"""Room for the keys and values of sequences."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from node.runner.backends.kv_cache import ROUND_TO, Cache, CacheRanges


def test_what_is_given_back_is_given_out_again():
    ranges = CacheRanges(4 * ROUND_TO)
    first, second = ranges.take(1), ranges.take(2 * ROUND_TO)

    assert ranges.take(ROUND_TO + 1) is None
    assert first is not None
    ranges.give_back(first)
    again = ranges.take(ROUND_TO)

    assert again is not None
    assert second is not None
    assert (again.start, again.size) == (0, ROUND_TO)
    assert (second.start, second.size) == (ROUND_TO, 2 * ROUND_TO)


@given(st.lists(st.integers(1, 400), max_size=30), st.data())
def test_ranges_never_overlap_or_leave_the_block(sizes: list[int], data: st.DataObject):
    ranges = CacheRanges(10 * ROUND_TO)
    taken: list[Cache] = []

    for size in sizes:
        if (cache := ranges.take(size)) is not None:
            assert cache.size >= size
            taken.append(cache)
        elif taken:
            ranges.give_back(taken.pop(data.draw(st.integers(0, len(taken) - 1))))
        ends = sorted((each.start, each.start + each.size) for each in taken)
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
        assert all(0 <= start < end <= 10 * ROUND_TO for start, end in ends)
