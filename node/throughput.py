"""How fast this machine computes a model, as seen from the jobs that it did.

The work of a job is counted in bytes of input and in items, or in tokens to write, because that is
known before it runs; the time is what the job itself kept the runner busy, so jobs that share a
runner do not make each other look slow. A line is fitted to the recent jobs: what any job costs,
and what its work adds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

ITEM_WORK: Final = 8  # bytes: what an item's own two tokens cost beside its text
DECAY: Final = 0.9  # an old job's weight with each newer one: half of it is left after seven
FIXED_S: Final = 0.01  # a step's cost however little it computes, until jobs of two sizes tell
SPREAD_MIN: Final = 0.01  # of the work, relative: jobs more alike than that say nothing of a slope
REACH: Final = 50  # what tiny jobs tell, times more than that, is noise times a large number
TELLING_WORK: Final = 4_096  # of a job that fills batches: what it took is computing


@dataclass(slots=True)
class _Line:
    """Sums over jobs, each weighted by its age: count, work, time, and their products."""

    count: float = 0.0
    work: float = 0.0
    time: float = 0.0
    work_work: float = 0.0
    work_time: float = 0.0
    largest: int = 0

    def add(self, work: int, time_s: float) -> None:
        self.largest = max(self.largest, work)
        self.count = self.count * DECAY + 1
        self.work = self.work * DECAY + work
        self.time = self.time * DECAY + time_s
        self.work_work = self.work_work * DECAY + work * work
        self.work_time = self.work_time * DECAY + work * time_s

    def at(self, work: int) -> float:
        """Return the time for ``work``; never less for more work, never negative."""
        spread = self.count * self.work_work - self.work**2
        if spread <= SPREAD_MIN * self.work**2:
            time_s = self.time / self.count
            base = min(time_s, FIXED_S)
            return base + (time_s - base) * work * self.count / self.work
        slope = (self.count * self.work_time - self.work * self.time) / spread
        base = (self.time - slope * self.work) / self.count
        if slope <= 0 or base < 0:
            return work * self.work_time / self.work_work
        return base + slope * work


class Throughput:
    """What to expect of the next job, by key (a model in a precision). It reads no clock."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}
        self._loads_s: dict[Hashable, float] = {}

    def observe(self, key: Hashable, *, units: int, size_bytes: int, busy_s: float) -> None:
        """Take in a finished job."""
        self._lines.setdefault(key, _Line()).add(_work(units, size_bytes), busy_s)

    def observe_load(self, key: Hashable, load_s: float) -> None:
        """Take in how long a cold start was."""
        self._loads_s[key] = load_s

    def estimate_s(
        self, key: Hashable, *, units: int, size_bytes: int, is_warm: bool
    ) -> float | None:
        """Return how long a job will keep a runner busy, with its start if none is warm; None when
        no job was seen yet that tells about one of this size.
        """
        line = self._lines.get(key)
        work = _work(units, size_bytes)
        if line is None or (work > REACH * line.largest and line.largest < TELLING_WORK):
            return None
        load_s = 0.0 if is_warm else self._loads_s.get(key, 0.0)
        return line.at(work) + load_s


def _work(units: int, size_bytes: int) -> int:
    return max(1, size_bytes + units * ITEM_WORK)
