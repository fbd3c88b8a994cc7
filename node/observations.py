"""How fast peers are: what their adverts state, corrected by what this submitter saw itself.

A speed is a number of GFLOP/s. An advert states it from a signed benchmark; the fewer its samples
and the older it is, the sooner what we saw outweighs it. What a peer did for us counts in work a
second, by our own clock from the acceptance of its lease to its last byte: nothing that a worker
says of its timings goes in. Both meet through the model's *scale*, the work a second
that peers were seen to do per GFLOP/s that they state: the median, so that a liar moves it little.

The time in which a peer had several of our jobs is counted once, so jobs that wait for each other
there do not make it look slow. Observations fade within minutes, and with them what they say
against the advert. The first result after a while that says that its model had to be loaded counts
for nothing, for it tells of the load and not of the speed; whoever says so again and again, to look
fast, is not believed. Nothing here reads a clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from protocols.keys import PeerId
from protocols.limits import MAX_OBSERVED, OBSERVATION_FADE_S

KEPT: Final = 0.95  # of older results with each newer one: the last twenty are what counts
FULL_RESULT_S: Final = 0.05  # a shorter one tells of round trips more than of computing
CONVINCING: Final = 4.0  # results after which what we saw counts for 63 %, thrice that for 95 %
TRUSTED_FACTOR: Final = 8.0  # once there is a result, an advert is believed only this far from it
SOME_RESULTS: Final = 0.5  # from here on an advert is bounded by what was seen
LEAST_RESULTS: Final = 0.05  # less is forgotten: one result after half an hour
SCALED_ANEW_S: Final = 1.0  # the median over thousands of peers costs a millisecond
SHORTEST_S: Final = 1e-4
COLD_AGAIN_S: Final = 300.0  # since its last result: runners are unloaded after as long
ITEM_WORK: Final = 8  # bytes: what an item costs beside its text, as in ``node.throughput``


class Key(NamedTuple):
    """What a speed is of."""

    peer: PeerId
    model: str
    precision: str


class Speed(NamedTuple):
    """A speed, and where it comes from in words."""

    gflops: float
    basis: str
    results: int = 0
    """How many results of ours it rests on, beside the advert."""


@dataclass(slots=True)
class _Observed:
    """Sums over results, each weighted by its age."""

    stated: float = 0.0
    """GFLOP/s by the advert."""
    count: float = 0.0
    items: float = 0.0
    work: float = 0.0
    busy_s: float = 0.0
    results: int = 0
    seen_at: float = 0.0
    in_flight: int = 0
    busy_since: float = 0.0
    warm_at: float = -math.inf
    """When its last result came, whether it counted or not."""

    def add(self, items: int, work: int, now: float) -> None:
        span_s = max(now - self.busy_since, SHORTEST_S)
        kept = KEPT * _faded(now - self.seen_at)
        self.count = self.count * kept + min(span_s / FULL_RESULT_S, 1.0)
        self.items = self.items * kept + items
        self.work = self.work * kept + work
        self.busy_s = self.busy_s * kept + span_s
        self.results += 1
        self.seen_at = self.busy_since = now

    def weight(self, now: float) -> float:
        return self.count * _faded(now - self.seen_at)

    @property
    def work_s(self) -> float:
        return self.work / self.busy_s

    def __str__(self) -> str:
        rate = f"{self.items / self.busy_s:.3g} items/s"
        if not self.items:
            rate = f"{self.work_s / 1e3:.3g} KB/s"
        return f"{self.results} result{'s' if self.results > 1 else ''} of ours, {rate}"


class Observations:
    """What one submitter saw of the speed of others."""

    def __init__(self) -> None:
        self._observed: OrderedDict[Key, _Observed] = OrderedDict()
        self._scales: dict[tuple[str, str], tuple[float, float]] = {}

    def began(self, key: Key, now: float) -> None:
        """A peer has a job of ours from now on."""
        observed = self._observed.setdefault(key, _Observed(seen_at=now))
        if not observed.in_flight:
            observed.busy_since = now
        observed.in_flight += 1
        self._observed.move_to_end(key)
        if len(self._observed) > MAX_OBSERVED:
            self._observed.popitem(last=False)

    def finished(
        self, key: Key, items: int, size_bytes: int, now: float, *, is_cold: bool = False
    ) -> None:
        """Its result was accepted; ``is_cold`` is whether the peer says that it had to load the
        model for it.
        """
        observed = self._observed.get(key)
        if observed is None or not observed.in_flight:
            return
        observed.in_flight -= 1
        was_cold = is_cold and now - observed.warm_at > COLD_AGAIN_S
        observed.warm_at = now
        if was_cold:
            observed.busy_since = now  # others that it has of us did not compute before, either
        else:
            observed.add(items, max(1, size_bytes + items * ITEM_WORK), now)

    def dropped(self, key: Key) -> None:
        """The job ended there without a result that counts."""
        observed = self._observed.get(key)
        if observed is not None and observed.in_flight:
            observed.in_flight -= 1

    def speed(self, key: Key, stated: float, now: float, trust: float = 1.0) -> Speed | None:
        """Return how fast a peer is whose advert states ``stated``, which is believed the less the
        lower ``trust`` in it is (0 to 1); None if we saw nothing of it that still counts.
        """
        observed = self._observed.get(key)
        weight = observed.weight(now) if observed else 0.0
        if observed is None or weight < LEAST_RESULTS:
            return None
        observed.stated = stated
        seen = observed.work_s / self._scale(key, now)
        if weight >= SOME_RESULTS:
            stated = min(max(stated, seen / TRUSTED_FACTOR), seen * TRUSTED_FACTOR)
        believed = 1 - math.exp(-weight / (CONVINCING * trust))
        return Speed(seen**believed * stated ** (1 - believed), str(observed), observed.results)

    def _scale(self, key: Key, now: float) -> float:
        """The work a second that peers do in a model per GFLOP/s that they state."""
        kind = key.model, key.precision
        counted_at, scale = self._scales.get(kind, (-math.inf, 0.0))
        if now - counted_at < SCALED_ANEW_S:
            return scale
        ratios = [
            observed.work_s / observed.stated
            for other, observed in self._observed.items()
            if other[1:] == kind and observed.results and observed.stated
        ]
        scale = median(ratios)
        self._scales[kind] = (now, scale)
        return scale


def _faded(age_s: float) -> float:
    return math.exp(-age_s / OBSERVATION_FADE_S)
