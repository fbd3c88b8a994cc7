"""One round of offers: who is asked under a fence, who said yes or no, and which lease is best.

Three candidates are asked first and twice as many each time all have refused. The best lease is
chosen once everyone has answered, or as soon as waiting for the others would cost too much. A round
in which everyone has refused, but some are merely busy, rests until they want to be asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from protocols.job import BUSY, Lease, Refuse
from protocols.limits import BUSY_RETRY_S_MAX, BUSY_RETRY_S_MIN, LEASE_CHOICE_S, OFFER_ANSWER_S

NEVER: Final = float("inf")
FIRST_OFFERS: Final = 3  # p99 1.4x an oracle's at 1,000 workers, two offers 1.7x (decision 0009)


class Candidates:
    """Who may be asked about one job, in what order; it learns from the job's lost attempts."""

    def __init__(self, order: Sequence[str]) -> None:
        self.order = list(order)
        self.suspects: set[str] = set()
        """Those who lost the job: asked last, and alone."""
        self.stalled: set[str] = set()
        """Those who said that they were at work and were not."""

    def __bool__(self) -> bool:
        return bool(self.order)

    def drop(self, peer: str) -> None:
        """Never ask this one again."""
        if peer in self.order:
            self.order.remove(peer)

    def lost(self, peer: str, *, is_wanted: bool) -> None:
        """This one lost the job: it gets it again only when nobody else takes it. One that
        ``is_wanted`` is asked first instead: if it is there it has what nobody else has; if not,
        its place costs no time.
        """
        if peer in self.order:
            self.order.remove(peer)
            self.order.insert(0 if is_wanted else len(self.order), peer)
        if not is_wanted:
            self.suspects.add(peer)


class Round:
    """Asks candidates in their order. ``next_deadline`` says when to look again at the latest."""

    def __init__(self, candidates: Candidates) -> None:
        self.refusals: dict[str, Refuse] = {}
        """Why each candidate said no, by its last word in this round."""
        self._candidates = candidates
        self._unasked = deque(candidates.order)
        self._width = FIRST_OFFERS
        self._offers: dict[str, Lease | None] = {}
        self._choose_at = NEVER
        self._again_at = NEVER

    @property
    def next_deadline(self) -> float:
        """When a lease must be chosen, others asked, or everyone asked again."""
        return min(self._choose_at, self._again_at)

    def is_asking(self, peer: str) -> bool:
        """Whether an answer of this peer counts."""
        return peer in self._offers

    def widen(self, now: float) -> list[str]:
        """Return whom to ask next, all at once; nobody when all have been."""
        asked: list[str] = []
        if self._unasked and self._unasked[0] in self._candidates.stalled and self._busy_waits():
            self._unasked.clear()  # it would only stall again: wait for those who are busy
        while self._unasked and len(asked) < self._width:
            if asked and self._unasked[0] in self._candidates.suspects:
                break
            asked.append(self._unasked.popleft())
        self._width *= 2
        self._offers = dict.fromkeys(asked)
        self._choose_at = now + OFFER_ANSWER_S if asked else NEVER
        return asked

    def replace(self, now: float) -> list[str]:
        """Return whom to ask in the place of one that is not there: one, or nobody."""
        if not self._unasked or self._unasked[0] in self._candidates.suspects:
            return []
        peer = self._unasked.popleft()
        if not any(self._offers.values()):
            self._choose_at = now + OFFER_ANSWER_S
        self._offers[peer] = None
        return [peer]

    def leased(self, peer: str, lease: Lease, now: float) -> None:
        """One that is asked said yes; the others have ``LEASE_CHOICE_S`` from the first."""
        if not any(self._offers.values()):
            self._choose_at = min(self._choose_at, now + LEASE_CHOICE_S)
        self._offers[peer] = lease

    def refused(self, peer: str, refuse: Refuse) -> None:
        """One that is asked said no."""
        self.refusals[peer] = refuse
        del self._offers[peer]

    def waiting(self) -> list[str]:
        """Return those that were asked and have not answered."""
        return [peer for peer, lease in self._offers.items() if lease is None]

    def is_open(self, now: float) -> bool:
        """Whether an answer that may still come is worth waiting for."""
        return now < self._choose_at and None in self._offers.values()

    def best(self) -> tuple[str, Lease] | None:
        """Return the lease that promises the earliest end, and whose it is."""
        leases = [(peer, lease) for peer, lease in self._offers.items() if lease is not None]
        return min(leases, key=lambda offered: offered[1].eta_ms, default=None)

    def withdraw(self) -> list[str]:
        """End the round; return those who may hold a lease of it."""
        held = list(self._offers)
        self._offers.clear()
        return held

    def rest(self, now: float) -> bool:
        """Wait for those who are merely busy; tell whether there are any."""
        waits = self._busy_waits()
        if waits:
            self._again_at = now + min(max(min(waits), BUSY_RETRY_S_MIN), BUSY_RETRY_S_MAX)
        return bool(waits)

    @property
    def is_resting(self) -> bool:
        """Whether everyone has refused and some will be asked again."""
        return self._again_at != NEVER

    def is_rested(self, now: float) -> bool:
        """Whether it is time to ask everyone again, in another round."""
        return now >= self._again_at

    def _busy_waits(self) -> list[float]:
        """When those who are merely busy want to be asked again, in seconds."""
        return [
            refuse.retry_after_ms / 1000
            for refuse in self.refusals.values()
            if refuse.code == BUSY and refuse.retry_after_ms
        ]
