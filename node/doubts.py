"""Doubts about peers whose outputs were not what others computed: they get fewer of our jobs.

A doubt is of a peer and a model, for one damaged file spoils one model. It fades as quickly as what
was seen of speeds does, so that a machine that was repaired comes back by itself. Nothing here
reads a clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from protocols.keys import PeerId
from protocols.limits import MAX_OBSERVED, OBSERVATION_FADE_S

Key = tuple[PeerId, str]
"""A peer, and the model of which it computes something else."""

OUTVOTED: Final = 3.0  # leaves 5 % of its jobs; half of them again after 15 minutes
DISPUTED: Final = 0.7  # leaves 50 %: one of the two is honest, and both must stay in use
MOST: Final = 6.0  # 0.25 %: whoever lies a hundred times is back within the hour, and found again
LEAST: Final = 0.02  # less is forgotten


class Doubts:
    """The doubts of one submitter; peers that never differed have none."""

    def __init__(self) -> None:
        self._doubts: OrderedDict[Key, tuple[float, float]] = OrderedDict()

    def add(self, key: Key, doubt: float, now: float) -> None:
        """Doubt a peer, on top of what is left of earlier doubts."""
        self._doubts[key] = (min(self._doubt(key, now) + doubt, MOST), now)
        self._doubts.move_to_end(key)
        if len(self._doubts) > MAX_OBSERVED:
            self._doubts.popitem(last=False)

    def share(self, key: Key, now: float) -> float:
        """Return of which share of jobs the peer is to be considered: 1 without any doubt."""
        return math.exp(-self._doubt(key, now))

    def _doubt(self, key: Key, now: float) -> float:
        if key not in self._doubts:
            return 0.0
        doubt, since = self._doubts[key]
        left = doubt * math.exp(-(now - since) / OBSERVATION_FADE_S)
        if left < LEAST:
            del self._doubts[key]
            return 0.0
        return left
