"""Who may enter one runner, and when: as much work as keeps it busy, from all submitters fairly.

Inside, a runner takes turns by job and nobody can be overtaken, so little goes in at once: jobs of
``FAIR_QUANTUM_S`` in all. The others wait outside in a ``FairQueue``. A submitter that has nothing
inside comes in at once while there is a place: the runner then gives it every nth batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from node.fair_queue import FairQueue
from protocols.limits import FAIR_QUANTUM_S, MAX_RUNNER_JOBS

UNMEASURED_S: Final = FAIR_QUANTUM_S / 8
"""The room that a job takes inside while nobody knows what it costs: eight go in to find out."""


@dataclass(slots=True, eq=False)
class Turn:
    """One job on its way through a runner. ``cost_s`` is None when nothing was measured yet."""

    submitter: str
    items: int
    size_bytes: int
    cost_s: float | None = None
    share_done: float = 0.0
    entered: trio.Event = field(default_factory=trio.Event)

    @property
    def rest_s(self) -> float:
        """How long it will still keep the runner busy, or is thought to."""
        if self.cost_s is None:
            return UNMEASURED_S
        return self.cost_s * (1.0 - self.share_done)


class Turns:
    """The places in one runner and the queue before them."""

    def __init__(self, max_jobs: int = MAX_RUNNER_JOBS, quantum_s: float = FAIR_QUANTUM_S) -> None:
        self._max_jobs = max_jobs
        self._quantum_s = quantum_s
        self._inside: dict[Turn, None] = {}
        self._inside_s = 0.0
        self._unmeasured = 0
        self._places: Counter[str] = Counter()
        self._queue: FairQueue[Turn] = FairQueue(quantum_s)

    @property
    def inside_s(self) -> float:
        """How long the jobs inside will still keep the runner busy; what is not known is left
        out.
        """
        return max(0.0, self._inside_s - self._unmeasured * UNMEASURED_S)

    def waiting_s(self) -> dict[str, float]:
        """Return how long the jobs outside would take, by submitter."""
        return self._queue.waiting_s()

    async def enter(self, turn: Turn) -> None:
        """Wait for a place; at once, without a turn of the loop, where there is one."""
        if self._has_room(turn.submitter):
            self._let_in(turn)
            return
        self._queue.push(turn.submitter, turn, turn.cost_s or 0.0)
        try:
            await turn.entered.wait()
        except trio.Cancelled:
            if turn in self._inside:
                self.leave(turn)
            else:
                self._queue.remove(turn.submitter, turn)
            raise

    def leave(self, turn: Turn) -> None:
        """Give up a place; whoever is next comes in."""
        del self._inside[turn]
        self._unmeasured -= turn.cost_s is None
        self._inside_s = self._inside_s - turn.rest_s if self._inside else 0.0
        self._places[turn.submitter] -= 1
        if not self._places[turn.submitter]:
            del self._places[turn.submitter]
        self._fill()

    def advanced(self, turn: Turn, share_done: float) -> None:
        """A job inside came this far; what it leaves may be room for another."""
        before_s, turn.share_done = turn.rest_s, share_done
        self._inside_s += turn.rest_s - before_s
        if len(self._queue):
            self._fill()

    def price(self, cost_of: Callable[[Turn], float | None]) -> None:
        """What jobs cost is known now: say so of those that came before."""

        def priced(turn: Turn) -> float:
            if turn.cost_s is None:
                turn.cost_s = cost_of(turn)
            return turn.cost_s or 0.0

        for turn in self._inside:
            priced(turn)
        self._inside_s = sum(turn.rest_s for turn in self._inside)
        self._unmeasured = sum(turn.cost_s is None for turn in self._inside)
        self._queue.reprice(priced)

    def _has_room(self, submitter: str) -> bool:
        if len(self._inside) >= self._max_jobs:
            return False
        is_absent = submitter not in self._places
        return is_absent or (not len(self._queue) and self._inside_s < self._quantum_s)

    def _let_in(self, turn: Turn) -> None:
        self._inside[turn] = None
        self._inside_s += turn.rest_s
        self._unmeasured += turn.cost_s is None
        self._places[turn.submitter] += 1
        turn.entered.set()

    def _fill(self) -> None:
        while len(self._inside) < self._max_jobs and (turn := self._next()) is not None:
            self._let_in(turn)

    def _next(self) -> Turn | None:
        if self._inside_s < self._quantum_s:
            return self._queue.pop()
        absent = (who for who in self._queue.submitters() if who not in self._places)
        return next((self._queue.pop_of(who) for who in absent), None)
