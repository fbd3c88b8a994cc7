"""Who may compute at this node now: ordinary jobs together, or one benchmark alone.

A benchmark that shares the machine measures its neighbours. It waits until the jobs that are here
are done; jobs that come meanwhile wait behind it, so that it cannot be put off for ever. Only one
benchmark may wait: admission refuses the others, which need not take turns with it in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

BENCHMARKS: Final = "bench."
NOT_ALONE: Final = frozenset({"bench.noop", "bench.network"})
"""The one computes nothing; the other measures what lies between two nodes."""
UNKNOWN_BENCHMARK_S: Final = 10.0
"""What to expect of a benchmark that was never run here."""


def runs_alone(kind: str) -> bool:
    """Whether jobs of this kind are benchmarks of the machine."""
    return kind.startswith(BENCHMARKS) and kind not in NOT_ALONE


class Lanes:
    """The two lanes of one node, in order of arrival."""

    def __init__(self) -> None:
        self._running = 0
        self._has_benchmark = False
        self._waiting: deque[tuple[bool, trio.Event]] = deque()

    @property
    def benchmarks_waiting(self) -> int:
        """How many benchmarks wait until they are alone."""
        return sum(is_alone for is_alone, _ in self._waiting)

    @asynccontextmanager
    async def lane(self, kind: str) -> AsyncGenerator[None]:
        """Wait until a job of this kind may run, and keep it so until the block ends."""
        await self._enter(runs_alone(kind))
        try:
            yield
        finally:
            self._running -= 1
            self._has_benchmark = False  # it was alone, so that nobody else's end can say this
            self._let_in()

    async def _enter(self, is_alone: bool) -> None:
        entry = (is_alone, trio.Event())
        self._waiting.append(entry)
        self._let_in()
        if entry[1].is_set():
            return
        try:
            await entry[1].wait()
        except trio.Cancelled:
            if entry[1].is_set():
                self._running -= 1
                self._has_benchmark = False
            else:
                self._waiting.remove(entry)
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting and not self._has_benchmark:
            is_alone, entered = self._waiting[0]
            if is_alone and self._running:
                return
            self._waiting.popleft()
            self._running += 1
            self._has_benchmark = is_alone
            entered.set()
