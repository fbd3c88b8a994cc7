"""Circuit breakers: a peer that fails at a model is left alone for a while, then tried once.

A breaker opens after a few failures in a row, or after one silence, because a silence costs a job
its whole lease. Once its time is over, or when a peer that was silent says hello again, it is half
open: one job is let through as a trial. A result closes it; another failure opens it for twice as
long. Nothing here reads a clock.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocols.keys import PeerId
from protocols.limits import (
    BREAKER_FAILURES,
    BREAKER_OPEN_S_MAX,
    BREAKER_OPEN_S_MIN,
    BREAKER_TRIAL_S,
    MAX_OBSERVED,
)

SILENT: Final = "did not answer"

Key = tuple[PeerId, str]
"""A peer, and the model at which it fails."""


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    """In a row."""
    trips: int = 0
    opens_at: float = 0.0
    """When the next trial is let through."""
    is_on_trial: bool = False
    why: str = ""


class Breakers:
    """The breakers of one submitter; peers that do not fail have none."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._breakers: OrderedDict[Key, _Breaker] = OrderedDict()

    def failed(self, key: Key, now: float) -> None:
        """Note a failure that another worker would perhaps not have had."""
        breaker = self._get(key)
        breaker.failures += 1
        if breaker.trips or breaker.failures >= BREAKER_FAILURES:
            self._trip(breaker, f"failed {breaker.failures} times in a row", now)

    def silent(self, key: Key, now: float) -> None:
        """Note that a peer fell silent, or was not to be reached."""
        breaker = self._get(key)
        breaker.failures += 1
        self._trip(breaker, SILENT, now)

    def succeeded(self, key: Key) -> None:
        """Note a result: the breaker closes."""
        self._breakers.pop(key, None)

    def met(self, peer: PeerId, now: float) -> None:
        """A peer says hello: if it was silent, it may be tried again now."""
        for (each, _), breaker in self._breakers.items():
            if each == peer and breaker.why == SILENT and not breaker.is_on_trial:
                breaker.opens_at = min(breaker.opens_at, now)

    def why_open(self, key: Key, now: float) -> str | None:
        """Say why the peer is to be left alone now; None when it may be asked."""
        breaker = self._breakers.get(key)
        if breaker is None or not breaker.trips or now >= breaker.opens_at:
            return None
        return f"{breaker.why}, and is tried again in {breaker.opens_at - now:.0f} s"

    def claim_trial(self, key: Key, now: float) -> None:
        """A job is about to be put to this peer: if that is a trial, let no second one through
        until it has told something.
        """
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.trips and now >= breaker.opens_at:
            breaker.is_on_trial = True
            breaker.opens_at = now + BREAKER_TRIAL_S

    def _get(self, key: Key) -> _Breaker:
        breaker = self._breakers.setdefault(key, _Breaker())
        self._breakers.move_to_end(key)
        if len(self._breakers) > MAX_OBSERVED:
            self._breakers.popitem(last=False)
        return breaker

    def _trip(self, breaker: _Breaker, why: str, now: float) -> None:
        if breaker.trips and now < breaker.opens_at and not breaker.is_on_trial:
            return  # of a job that was under way when it opened
        open_s = min(BREAKER_OPEN_S_MIN * 2**breaker.trips, BREAKER_OPEN_S_MAX)
        breaker.trips += 1
        breaker.opens_at = now + open_s * self._rng.uniform(0.75, 1.25)
        breaker.is_on_trial = False
        breaker.why = why
