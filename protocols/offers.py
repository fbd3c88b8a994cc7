"""The offers of one job: what is sent to candidates round by round, and what they said.

Rounds decide whom to ask and how long to wait; here that becomes messages under the fence of the
next attempt, and lines of the job's history.
"""

from __future__ import annotations

from collections import deque

from protocols import job_history as history
from protocols.job import NO_ANSWER, UNREACHABLE, Cancel, Lease, Refuse, Release, Terms
from protocols.round import Candidates, Round
from protocols.session import Effect, Send
from protocols.signs import Sign


class Offers:
    """Made to ``candidates`` until ``deadline``."""

    def __init__(
        self,
        terms: Terms,
        candidates: Candidates,
        deadline: float,
        told: history.JobHistory,
        signs: deque[tuple[str, Sign]],
    ) -> None:
        self.candidates = candidates
        self.round = Round(self.candidates)
        self.entrusted: str | None = None
        """Who got the input with its offer, and has not answered yet."""
        self.is_streamed = False
        """Whether the output is wanted while it comes into being."""
        self._terms = terms
        self._fence = 0
        self._deadline = deadline
        self._history = told
        self._signs = signs

    @property
    def only_candidate(self) -> str | None:
        """The one who may be asked, if it is only one."""
        order = self.candidates.order
        return order[0] if len(order) == 1 else None

    def begin(self, fence: int, now: float, small_input: bytes | None = None) -> list[Effect]:
        """Ask the first ones in a new round; nothing if there is nobody. ``small_input`` goes along
        to an only candidate, which is entrusted with the job thereby.
        """
        self._fence = fence
        self.round = Round(self.candidates)
        if small_input is not None:
            self.entrusted = self.only_candidate
        return self.widen(now, small_input)

    def widen(self, now: float, small_input: bytes | None = None) -> list[Effect]:
        """Ask the next ones; nothing if all have been asked."""
        return self._offer_to(self.round.widen(now), now, small_input)

    def leased(self, peer: str, lease: Lease, now: float) -> None:
        """One that is asked said yes."""
        self.round.leased(peer, lease, now)
        self._history.add(now, history.LEASED, peer, self._fence, lease.eta_ms)

    def refused(self, peer: str, refuse: Refuse, now: float) -> None:
        """One that is asked said no."""
        self.round.refused(peer, refuse)
        said = f"{refuse.code} ({refuse.reason})"
        self._history.add(now, history.REFUSED, peer, self._fence, said)

    def dropped(self, peer: str, why: str, now: float) -> None:
        """One that is asked can't or shall not answer, which counts as a no."""
        self.refused(peer, self._note(UNREACHABLE, why), now)

    def unreached(self, peer: str, why: str, now: float) -> list[Effect]:
        """One that is asked can't be reached: ask another in its place, if there is one."""
        instead = self._offer_to(self.round.replace(now), now)
        self.dropped(peer, why, now)
        return instead

    def expire(self, now: float) -> list[Effect]:
        """Go on without those that did not answer in time."""
        for peer in self.round.waiting():
            self.round.refusals[peer] = self._note(NO_ANSWER, "it did not answer in time")
            self._history.add(now, history.REFUSED, peer, self._fence, NO_ANSWER)
            self._signs.append((peer, Sign.UNANSWERED))
        return self.withdraw()

    def withdraw(self, chosen: str | None = None) -> list[Effect]:
        """Take back the offers that are out, but for the one whose lease was chosen; whoever was
        entrusted with the job may be at work.
        """
        stop = Release if self.entrusted is None else Cancel
        self.entrusted = None
        freed = [peer for peer in self.round.withdraw() if peer != chosen]
        return [Send(peer, stop(self._terms.job_id, self._fence)) for peer in freed]

    def _offer_to(
        self, peers: list[str], now: float, small_input: bytes | None = None
    ) -> list[Effect]:
        for peer in peers:
            self._history.add(now, history.OFFERED, peer, self._fence)
        budget_ms = max(0, int((self._deadline - now) * 1000))
        offer = self._terms.offer(self._fence, budget_ms, small_input, stream=self.is_streamed)
        return [Send(peer, offer) for peer in peers]

    def _note(self, code: str, reason: str) -> Refuse:
        """What a candidate would have said, had it answered."""
        return Refuse(self._terms.job_id, self._fence, code, reason[:200])
