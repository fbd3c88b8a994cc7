"""The two lanes of a node: benchmarks run alone, everything else runs together.

A benchmark that shared the machine would measure its neighbours, and its record is evidence. So it
waits until the jobs that are here have ended, and jobs that come meanwhile wait until it has. Then
they go first: benchmarks one behind the other can't keep the others out. At most one benchmark
waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import trio

from protocols.errors import JobFailed

TAKEN: Final = "runners-benchmark-waiting"
"""The code of a benchmark for which there is no room; another worker may well have some."""
OVERDUE_S: Final = 2.0
"""What a benchmark is thought to need still when its estimate has passed, or there was none."""
SHARING: Final = frozenset({"bench.noop", "bench.network"})
"""Benchmarks that leave the processor to others."""


def is_exclusive(kind: str) -> bool:
    """Whether jobs of this kind run alone."""
    return kind.startswith("bench.") and kind not in SHARING


@dataclass(slots=True, eq=False)
class _Waiter:
    """One job before a lane, or the benchmark in it."""

    cost_s: float | None
    entered: trio.Event = field(default_factory=trio.Event)
    began_at: float = 0.0

    def rest_s(self, now: float) -> float:
        """How long a benchmark in the lane still takes."""
        return max(self.cost_s - (now - self.began_at), 0.0) if self.cost_s else 0.0


class Lanes:
    """Who may run now. Every ``enter`` that returns needs its ``leave``."""

    def __init__(self) -> None:
        self._together = 0
        self._held: deque[_Waiter] = deque()
        self._alone: _Waiter | None = None
        self._next_alone: _Waiter | None = None

    @property
    def has_benchmark_waiting(self) -> bool:
        """Whether another benchmark would be one too many."""
        return self._next_alone is not None

    def ahead_s(self, now: float) -> float:
        """Return how long the benchmarks that are here, and the jobs that they hold up, will
        take.
        """
        held_s = sum(waiter.cost_s or 0.0 for waiter in self._held)
        if self._next_alone is not None:
            held_s += self._next_alone.cost_s or OVERDUE_S
        if self._alone is not None:
            held_s += self._alone.rest_s(now) or OVERDUE_S
        return held_s

    async def enter(self, kind: str, cost_s: float | None) -> None:
        """Wait until a job of this kind may run; at once, without a turn of the loop, when it may
        now. Raises ``JobFailed`` with code ``TAKEN`` for a benchmark that may not even wait.
        """
        if is_exclusive(kind):
            await self._enter_alone(_Waiter(cost_s))
        elif self._alone is None and self._next_alone is None:
            self._together += 1
        else:
            await self._enter_together(_Waiter(cost_s))

    def leave(self, kind: str) -> None:
        """A job of this kind has ended, however it did."""
        if is_exclusive(kind):
            self._alone = None
            self._let_in_held()
        else:
            self._together -= 1
        self._let_in_benchmark()

    async def _enter_alone(self, benchmark: _Waiter) -> None:
        if self._next_alone is not None:
            raise JobFailed("a benchmark runs alone, and another one waits already", code=TAKEN)
        self._next_alone = benchmark
        self._let_in_benchmark()
        try:
            await benchmark.entered.wait()
        except trio.Cancelled:
            if self._alone is benchmark:
                self._alone = None
            else:
                self._next_alone = None
            if self._alone is None:
                self._let_in_held()
            self._let_in_benchmark()
            raise

    async def _enter_together(self, job: _Waiter) -> None:
        self._held.append(job)
        try:
            await job.entered.wait()
        except trio.Cancelled:
            if job.entered.is_set():
                self._together -= 1
                self._let_in_benchmark()
            else:
                self._held.remove(job)
            raise

    def _let_in_held(self) -> None:
        while self._held:
            self._together += 1
            self._held.popleft().entered.set()

    def _let_in_benchmark(self) -> None:
        benchmark = self._next_alone
        if benchmark is None or self._alone is not None or self._together:
            return
        self._alone, self._next_alone = benchmark, None
        benchmark.began_at = trio.current_time()
        benchmark.entered.set()
