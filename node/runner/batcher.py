"""Which rows to compute together: rows of like length, within a budget of tokens, taken in turn
from all jobs.

A batch is as wide as its longest row, so mixed lengths waste work on padding: computing everything
in one batch, or in batches of unsorted rows, *halves* throughput on a CPU. Each batch is therefore
seeded by the longest row of the job whose turn it is, and filled with rows of like length from any
job. A big job cannot hold up a small one by more than one batch, and small jobs share batches.

Pure: no engine, no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

ACCELERATED_BATCH_TOKENS: Final = 16_384  # small batches leave most of an accelerator idle
BATCH_TOKENS: Final = 768  # throughput is flat from 512 to 1,024 tokens and falls on both sides
MAX_PADDING: Final = (
    2  # a row shorter than half the widest costs more in padding than in a batch of its own
)

WINDOW_ITEMS: Final = 2_048  # items tokenised ahead of one job: enough to find rows of like length
WINDOW_BYTES: Final = 512 << 10  # text tokenised in one step, about 0.2 s


class Row(NamedTuple):
    """One row of one job: ``item`` is its place in the job's input, ``length`` its tokens."""

    length: int
    job: int
    item: int


class Batcher:
    """The rows that wait, by job. Every row is given out exactly once, unless its job is removed
    before.
    """

    def __init__(self, batch_tokens: int = BATCH_TOKENS) -> None:
        self._batch_tokens = batch_tokens
        self._rows: dict[int, list[Row]] = {}
        self._turns: deque[int] = deque()

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def add(self, job: int, lengths: Iterable[tuple[int, int]]) -> None:
        """Let rows wait: pairs of item and length. A job may add rows at any time."""
        if job not in self._rows:
            self._turns.append(job)
        rows = [Row(length, job, item) for item, length in lengths]
        self._rows[job] = sorted(self._rows.get(job, []) + rows)
        self._forget_if_empty(job)

    def remove(self, job: int) -> None:
        """Drop the waiting rows of a job; does nothing when there are none."""
        if self._rows.pop(job, None) is not None:
            self._turns.remove(job)

    def waiting(self, job: int) -> int:
        """Return how many rows of a job wait."""
        return len(self._rows.get(job, ()))

    def take(self) -> list[Row]:
        """Return the next batch; empty when nothing waits.

        Rows times the longest length stay within the budget, except that one row alone may be over.
        """
        if not self._turns:
            return []
        self._turns.rotate(-1)
        seed = self._pop(self._turns[-1], None)
        batch = [seed, *self._companions(seed)]
        for job in {row.job for row in batch}:
            self._forget_if_empty(job)
        return batch

    def _companions(self, seed: Row) -> list[Row]:
        """Take the rows to compute with ``seed``, from the longest that it may be padded to."""
        next_row = self._next_below(min(seed.length * MAX_PADDING, self._batch_tokens // 2))
        width = max(seed.length, next_row.length if next_row else 0)
        taken: list[Row] = []
        while next_row and (len(taken) + 2) * width <= self._batch_tokens:
            if next_row.length * MAX_PADDING < width:
                break
            taken.append(self._pop(next_row.job, next_row))
            next_row = self._next_below(next_row.length)
        return taken

    def _pop(self, job: int, row: Row | None) -> Row:
        """Take one row of a job: the given one, or its longest."""
        rows = self._rows[job]
        return rows.pop() if row is None else rows.pop(bisect_right(rows, row) - 1)

    def _next_below(self, length: int) -> Row | None:
        """Return the longest waiting row that is no longer than ``length``."""
        limit = Row(length + 1, -1, -1)
        places = ((rows, bisect_right(rows, limit)) for rows in self._rows.values())
        return max((rows[place - 1] for rows, place in places if place), default=None)

    def _forget_if_empty(self, job: int) -> None:
        if not self._rows.get(job, True):
            self.remove(job)


def window(items: list[str], first: int) -> tuple[list[str], int]:
    """Return the texts to tokenise next, and about how many bytes they have: at least one, however
    long it is.
    """
    size = 0
    texts: list[str] = []
    for item in items[first : first + WINDOW_ITEMS]:
        if texts and size + len(item) > WINDOW_BYTES:
            break
        texts.append(item)
        size += len(item)
    return texts, size
