"""Who could do which kind of job, kept ready: a mesh of ten thousand is not searched for each job.

A *pool* holds the workers for one kind of need. A change of the directory marks one peer, which is
looked at again before the next draw. Whoever draws a peer has to look whether it is still there:
time alone tells nobody when an advert or a certificate ends.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import OrderedDict
from dataclasses import replace
from itertools import accumulate
from typing import Final

from node.needs import UNMEASURED_GFLOPS, JobNeeds, stated_speed, why_not
from peer.directory import Directory
from protocols.keys import PeerId
from protocols.limits import MAX_POOLS

REDRAWN_S: Final = 0.25  # adding up ten thousand weights takes 0.6 ms
DRAWS_A_PLACE: Final = 8  # of one that is far heavier than all others, most draws are repeats


class Pool:
    """The workers for one kind of need. ``weights`` are the speeds of those who will do."""

    def __init__(self) -> None:
        self.weights: dict[PeerId, float] = {}
        self.stated: dict[PeerId, float | None] = {}
        """The speed in the advert of each of them, None if it has none."""
        self.reasons: dict[PeerId, str] = {}
        """Why the others will not do."""
        self.marked: dict[PeerId, None] = {}  # in order, so that a seed decides every draw
        self._peers: list[PeerId] = []
        self._sums: list[float] = []
        self._is_changed = True
        self._summed_at = float("-inf")

    def weigh(self, peer: PeerId, speed: float) -> None:
        """Set how fast a peer is that will do."""
        if self.weights.get(peer) != speed:
            self.weights[peer] = speed
            self._is_changed = True

    def exclude(self, peer: PeerId, reason: str | None = None) -> None:
        """Take a peer out, and remember why if it is still there."""
        self._is_changed |= self.weights.pop(peer, None) is not None
        self.stated.pop(peer, None)
        self.reasons.pop(peer, None)
        if reason is not None:
            self.reasons[peer] = reason

    def draw(self, count: int, rng: random.Random, now: float) -> list[PeerId]:
        """Return so many peers at most, without replacement, each place by the shares of speed."""
        self._sum_up(now)
        if not self._sums:
            return []
        drawn: dict[PeerId, None] = {}  # repeats left out: the same as drawing from what is left
        last = len(self._sums) - 1
        for _ in range(count * DRAWS_A_PLACE):
            place = bisect(self._sums, rng.random() * self._sums[-1], hi=last)
            drawn[self._peers[place]] = None
            if len(drawn) == count:
                break
        return list(drawn)

    def any(self, rng: random.Random) -> PeerId:
        """Return one of those that ``draw`` draws from, each as likely as the others."""
        return rng.choice(self._peers)

    def _sum_up(self, now: float) -> None:
        if self._is_changed and now - self._summed_at >= REDRAWN_S:
            self._peers = list(self.weights)
            self._sums = list(accumulate(self.weights.values()))
            self._is_changed, self._summed_at = False, now


class Roster:
    """The pools of the jobs that this node submitted lately."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._pools: OrderedDict[JobNeeds, Pool] = OrderedDict()
        directory.on_change(self._mark)

    def pool(self, needs: JobNeeds) -> Pool:
        """Return the pool for these needs, as the directory is now but for what time has ended.
        Those whom one job excludes are in it: it is a pool for many jobs.
        """
        if needs.excluded:
            needs = replace(needs, excluded=frozenset())
        pool = self._pools.get(needs)
        if pool is None:
            pool = self._pools[needs] = Pool()
            pool.marked = dict.fromkeys(entry.peer_id for entry in self._directory)
            if len(self._pools) > MAX_POOLS:
                self._pools.popitem(last=False)
        self._pools.move_to_end(needs)
        for peer in pool.marked:
            self._look_at(peer, needs, pool)
        pool.marked.clear()
        return pool

    def _mark(self, peer: PeerId) -> None:
        for pool in self._pools.values():
            pool.marked[peer] = None

    def _look_at(self, peer: PeerId, needs: JobNeeds, pool: Pool) -> None:
        worker = self._directory.worker(peer)
        if worker is None or worker.advert is None:
            pool.exclude(peer)
        elif (reason := why_not(worker.advert, needs)) is not None:
            pool.exclude(peer, reason)
        else:
            pool.reasons.pop(peer, None)
            pool.stated[peer] = stated = stated_speed(worker.advert, needs.kind)
            pool.weigh(peer, stated or UNMEASURED_GFLOPS)
