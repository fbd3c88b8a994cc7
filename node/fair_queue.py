"""Whose job enters a runner next: deficit round robin over submitters, by estimated seconds.

Submitters take turns. A turn is worth ``QUANTUM_S`` of work; what a job takes beyond it is saved up
for over further turns, and what a turn leaves is lost when nothing waits any more. Inside, a runner
works on all its jobs by turns, so that a submitter with many of them would crowd out the others:
past a quantum of work, or ``min_inside`` jobs where that is more, it waits for its own jobs. So
whoever comes with a single job waits for about one quantum of each of the others, however much they
have. Pure: no clock, no loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocols.limits import MAX_RUNNER_JOBS, QUANTUM_S

MIN_INSIDE: Final = 4  # a submitter's own small job beside its large ones: a batch each is no delay
UNKNOWN_S: Final = 0.05  # the cost of a job that nobody can estimate: ten of them are a quantum
TINY_S: Final = 1e-9  # sums of fractions are not exact


@dataclass(slots=True, eq=False)
class Place:
    """One job's place: it waits, or is inside."""

    submitter: str
    cost_s: float
    is_inside: bool = False


@dataclass(slots=True, eq=False)
class _Share:
    """One submitter: what waits, what is inside, and what is left of its turn."""

    waiting: deque[Place]
    deficit_s: float = 0.0
    inside: int = 0
    inside_s: float = 0.0


class FairQueue:
    """The jobs at one runner."""

    def __init__(self, slots: int = MAX_RUNNER_JOBS, min_inside: int = MIN_INSIDE) -> None:
        self._free = slots
        self._min_inside = min_inside
        self._shares: dict[str, _Share] = {}
        self._turns: deque[str] = deque()
        """Submitters with something that waits; the first one has the turn."""

    def __len__(self) -> int:
        return sum(len(share.waiting) + share.inside for share in self._shares.values())

    def join(self, submitter: str, cost_s: float | None) -> Place:
        """Let a job wait; ``enter`` says when it is its turn."""
        place = Place(submitter, UNKNOWN_S if cost_s is None else cost_s)
        share = self._shares.setdefault(submitter, _Share(deque()))
        share.waiting.append(place)
        if len(share.waiting) == 1:
            self._turns.append(submitter)
            if len(self._turns) == 1:
                self._begin_turn()
        return place

    def leave(self, place: Place) -> None:
        """A job is done, or wants no more."""
        share = self._shares[place.submitter]
        if place.is_inside:
            self._free += 1
            share.inside -= 1
            share.inside_s = share.inside_s - place.cost_s if share.inside else 0.0
        else:
            share.waiting.remove(place)
            self._rest_if_empty(place.submitter, share)
        if not share.inside and not share.waiting:
            del self._shares[place.submitter]

    def enter(self) -> Place | None:
        """Take in the next job; None when none may enter now."""
        if not self._free:
            return None
        ready = [name for name in self._turns if self._may_enter(self._shares[name])]
        if not ready:
            return None
        self._skip_rounds(ready)
        while not self._can_pay(self._turns[0]):
            self._turns.rotate(-1)
            self._begin_turn()
        return self._take(self._turns[0])

    def _can_pay(self, submitter: str) -> bool:
        share = self._shares[submitter]
        may_enter = self._may_enter(share)
        return may_enter and share.waiting[0].cost_s <= share.deficit_s + TINY_S

    def _may_enter(self, share: _Share) -> bool:
        return share.inside < self._min_inside or share.inside_s + TINY_S < QUANTUM_S

    def _begin_turn(self) -> None:
        """The first one's turn comes; who may not enter saves nothing up."""
        share = self._shares[self._turns[0]]
        if self._may_enter(share):
            share.deficit_s += QUANTUM_S

    def _skip_rounds(self, ready: list[str]) -> None:
        """Give everyone the turns in which nobody could pay: an hour's job saves for thousands."""
        missing = (self._shares[name] for name in ready)
        debts_s = [share.waiting[0].cost_s - share.deficit_s for share in missing]
        rounds = math.ceil(min(debts_s) / QUANTUM_S) - 1
        for name in ready if rounds > 0 else ():
            self._shares[name].deficit_s += rounds * QUANTUM_S

    def _take(self, submitter: str) -> Place:
        share = self._shares[submitter]
        place = share.waiting.popleft()
        place.is_inside = True
        self._free -= 1
        share.deficit_s -= place.cost_s
        share.inside += 1
        share.inside_s += place.cost_s
        self._rest_if_empty(submitter, share)
        return place

    def _rest_if_empty(self, submitter: str, share: _Share) -> None:
        if share.waiting:
            return
        share.deficit_s = 0.0
        had_turn = self._turns[0] == submitter
        self._turns.remove(submitter)
        if had_turn and self._turns:
            self._begin_turn()


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks how long a job would wait: ``leased_s`` is what each submitter has been promised and
    is not at the runner yet.
    """

    submitter: str
    cost_s: float
    leased_s: Mapping[str, float]


def fair_wait_s(work_s: Mapping[str, float], asker: Asker) -> float:
    """Return how long the job waits where each submitter has so much work: for all of its own
    submitter's, and for no more of another's than that gets in turns meanwhile.
    """
    total_s = {**work_s}
    for name, leased_s in asker.leased_s.items():
        total_s[name] = total_s.get(name, 0.0) + leased_s
    own_s = total_s.pop(asker.submitter, 0.0)
    theirs_s = own_s + asker.cost_s + QUANTUM_S
    return own_s + sum(min(s, theirs_s) for s in total_s.values())
