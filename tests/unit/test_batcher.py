"""Which rows are computed together."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from node.runner.batcher import MAX_PADDING, Batcher, Row

LENGTHS = st.lists(st.integers(1, 300), max_size=40)


def filled(budget: int, *jobs: list[int]) -> Batcher:
    batcher = Batcher(budget)
    for job, lengths in enumerate(jobs):
        batcher.add(job, enumerate(lengths))
    return batcher


def drained(batcher: Batcher) -> list[list[Row]]:
    batches: list[list[Row]] = []
    while batch := batcher.take():
        batches.append(batch)
    return batches


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(LENGTHS, max_size=5), st.integers(1, 1_000))
def test_every_row_is_given_out_exactly_once(jobs: list[list[int]], budget: int):
    batches = drained(filled(budget, *jobs))

    rows = sorted((row.job, row.item, row.length) for batch in batches for row in batch)
    assert rows == [
        (job, item, length)
        for job, lengths in enumerate(jobs)
        for item, length in enumerate(lengths)
    ]


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(LENGTHS, max_size=5), st.integers(1, 1_000))
def test_a_batch_keeps_to_its_budget_unless_it_is_one_row(jobs: list[list[int]], budget: int):
    for batch in drained(filled(budget, *jobs)):
        longest = max(row.length for row in batch)

        assert len(batch) == 1 or len(batch) * longest <= budget
        assert all(longest >= row.length >= longest / MAX_PADDING for row in batch)


def test_rows_of_like_length_are_computed_together():
    batches = drained(filled(300, [10, 100, 11, 90, 12, 80]))

    assert [[row.length for row in batch] for batch in batches] == [[100, 90, 80], [12, 11, 10]]


def test_small_jobs_share_a_batch():
    batches = drained(filled(768, [5], [6], [7]))

    assert [{row.job for row in batch} for batch in batches] == [{0, 1, 2}]


def test_a_small_job_waits_for_one_batch_of_a_big_one_at_most():
    batcher = filled(100, [50] * 1_000)
    batcher.take()
    batcher.add(1, [(0, 3)])

    next_two = [batcher.take(), batcher.take()]

    assert Row(length=3, job=1, item=0) in next_two[0] + next_two[1]


def test_a_removed_job_leaves_nothing_behind():
    batcher = filled(100, [10, 20], [30])

    batcher.remove(0)
    batcher.remove(0)

    assert len(batcher) == 1
    assert batcher.waiting(0) == 0
    assert drained(batcher) == [[Row(length=30, job=1, item=0)]]


def test_a_job_may_add_rows_at_any_time():
    batcher = filled(768, [10])
    batcher.take()

    batcher.add(0, [(1, 20)])

    assert batcher.take() == [Row(length=20, job=0, item=1)]
    assert batcher.take() == []
