from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from aggregator.dag.offsets import MOST, STRETCH, Offsets

steps = st.lists(st.sampled_from([0, 0, 1, 7, 300, MOST, MOST + 1, 1 << 20]), min_size=1)
repeats = st.sampled_from([1, 3, STRETCH - 1, STRETCH, STRETCH + 1])


@given(steps, repeats)
def test_what_is_kept_in_half_the_memory_is_the_same(steps: list[int], times: int) -> None:
    values = np.cumsum(np.repeat(steps[:40], times)).astype(np.uint32)

    kept = Offsets(values)

    places = np.arange(len(values))
    assert len(kept) == len(values)
    assert kept.every().tolist() == values.tolist()
    assert kept.at(places).tolist() == values.tolist()
    assert [kept[place] for place in range(len(values))] == values.tolist()


def test_a_hub_costs_no_more_than_the_stretch_it_is_in() -> None:
    values = np.arange(1 << 16, dtype=np.uint32) * 2
    plain = Offsets(values)
    with_hub = values.copy()
    with_hub[1_000:] += 3_000_000

    assert plain.nbytes < values.nbytes * 0.51
    assert Offsets(with_hub).nbytes - plain.nbytes == STRETCH * 4
