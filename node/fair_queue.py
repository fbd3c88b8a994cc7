"""Whose job is next where jobs of several submitters wait: deficit round robin by estimated
seconds.

The submitters take turns. At each turn one may have jobs of ``quantum_s`` done, and what it does
not use it keeps for its next turn as long as it has jobs waiting; so a job that is dearer than a
quantum comes after as many turns as it is worth. A submitter with a thousand jobs therefore delays
another's one job by one turn and not by a thousand jobs. Jobs of one submitter stay in order.

Pure: no clock, no waiting.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

COST_S_MIN: Final = 0.001
"""What any job costs at least: else a submitter's turn with jobs that nobody has measured yet would
never end.
"""


@dataclass(slots=True)
class _Line(Generic[T]):
    """The jobs of one submitter that wait, what they cost in all, and what it may spend."""

    allowance_s: float
    jobs: deque[tuple[T, float]] = field(default_factory=deque[tuple[T, float]])
    cost_s: float = 0.0

    def can_pay(self) -> bool:
        return self.jobs[0][1] <= self.allowance_s


class FairQueue(Generic[T]):
    """Jobs that wait, by submitter. Every job comes out once, unless it is removed before."""

    def __init__(self, quantum_s: float) -> None:
        self._quantum_s = quantum_s
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        """The first one's turn it is."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, submitter: str) -> bool:
        return submitter in self._lines

    def submitters(self) -> list[str]:
        """Return those who have jobs waiting, in the order of their turns."""
        return list(self._lines)

    def waiting_s(self) -> dict[str, float]:
        """Return how long the waiting jobs of each submitter would take."""
        return {submitter: max(0.0, line.cost_s) for submitter, line in self._lines.items()}

    def push(self, submitter: str, job: T, cost_s: float) -> None:
        """Let a job wait; a submitter that had none waiting is last in turn."""
        line = self._lines.get(submitter)
        if line is None:
            line = self._lines[submitter] = _Line(self._quantum_s)
        cost_s = max(cost_s, COST_S_MIN)
        line.jobs.append((job, cost_s))
        line.cost_s += cost_s
        self._count += 1

    def pop(self) -> T | None:
        """Take out the next job, at its submitter's expense; None when nothing waits."""
        while self._lines:
            for _ in range(len(self._lines)):
                submitter, line = next(iter(self._lines.items()))
                if line.can_pay():
                    line.allowance_s -= line.jobs[0][1]
                    return self._take(submitter, line)
                line.allowance_s += self._quantum_s
                self._lines.move_to_end(submitter)
            self._skip_rounds()
        return None

    def pop_of(self, submitter: str) -> T | None:
        """Take out this submitter's first job out of turn, at nobody's expense."""
        line = self._lines.get(submitter)
        return None if line is None else self._take(submitter, line)

    def remove(self, submitter: str, job: T) -> None:
        """Drop a job that waits; does nothing when it does not."""
        line = self._lines.get(submitter)
        found = next((entry for entry in line.jobs if entry[0] is job), None) if line else None
        if line is None or found is None:
            return
        line.jobs.remove(found)
        self._dropped(submitter, line, found[1])

    def reprice(self, cost_of: Callable[[T], float]) -> None:
        """Ask again what each job that waits would cost."""
        for line in self._lines.values():
            line.jobs = deque((job, max(cost_of(job), COST_S_MIN)) for job, _ in line.jobs)
            line.cost_s = sum(cost_s for _, cost_s in line.jobs)

    def _take(self, submitter: str, line: _Line[T]) -> T:
        job, cost_s = line.jobs.popleft()
        self._dropped(submitter, line, cost_s)
        return job

    def _dropped(self, submitter: str, line: _Line[T], cost_s: float) -> None:
        line.cost_s -= cost_s
        self._count -= 1
        if not line.jobs:
            del self._lines[submitter]

    def _skip_rounds(self) -> None:
        """Nobody can pay: let the rounds pass that the nearest one still needs, all at once."""
        rounds = min(
            math.ceil((line.jobs[0][1] - line.allowance_s) / self._quantum_s)
            for line in self._lines.values()
        )
        for line in self._lines.values():
            line.allowance_s += max(0, rounds) * self._quantum_s


def fair_wait_s(own_s: float, others_s: list[float], cost_s: float) -> float:
    """Return how long a submitter's next job waits behind its own waiting jobs, and those of the
    others that come out in the same rounds.
    """
    share_s = own_s + cost_s
    return own_s + sum(min(other_s, share_s) for other_s in others_s)
