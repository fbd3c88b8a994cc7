"""Where a job may run: who offers what it needs, in the order in which to ask them.

The order is a sample without replacement, weighted by speed: its first get the offer, the rest is
for widening. One in twenty times its first place goes to a peer that never did a job of ours, so
that everyone is tried. Who failed lately, or was not heard of when it was due, comes behind all
others, so that a job whose other workers are gone still finds one that has just come back. Load is
never looked at here; the answers to the offers tell it as it is.
Everyone who was considered is listed with its speed, where that comes from, and the reason why not.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.benchmarks import is_benchmark
from node.breaker import Breakers
from node.doubts import Doubts
from node.mesh_models import offered
from node.needs import (
    LEAST_TRUST,
    UNMEASURED_GFLOPS,
    JobNeeds,
    basis_of,
    stated_speed,
    trust_in,
    why_not,
)
from node.observations import Key, Observations, Speed
from node.retries import RetryBudget
from node.roster import Pool, Roster
from peer.directory import Directory, Entry
from protocols.advert import Advert, ModelOffer
from protocols.job import Refuse, Terms
from protocols.keys import PeerId
from protocols.limits import MAX_CONSIDERED
from protocols.round import FIRST_OFFERS
from protocols.signs import Sign

EXPLORED: Final = 0.05  # of first places: a peer that was never asked may be the best of all
DRAWN: Final = (
    7 * FIRST_OFFERS
)  # of a pool too large to weigh: for three rounds, each twice as wide
EXPLAINED: Final = 20  # candidates named in a message; a person reads no more
NO_PEERS: Final = frozenset[PeerId]()
GONE: Final = "has no current advert as a worker"
OVERDUE: Final = "was not heard of when its advert was due again"
EXCLUDED: Final = "has run it already"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One peer that was considered: how fast it is in GFLOP/s, or the reason why it will not do."""

    peer: PeerId
    speed: float
    reason: str | None = None
    basis: str = "not measured"
    """Where the speed comes from."""
    results: int = 0
    """How many results of ours the speed rests on."""
    is_last_resort: bool = False
    """Whether the reason is only that it failed lately, is doubted or overdue: it is asked when no
    other will do.
    """


class Choice(NamedTuple):
    """Who was considered for a job, and whom to ask in which order."""

    considered: list[Candidate]
    peers: list[PeerId]
    pool_size: int
    """How many would do in all; of very many, only some are considered."""

    @property
    def last_resorts(self) -> frozenset[PeerId]:
        """Those of ``peers`` that are asked only when no other will do."""
        resorts = frozenset(each.peer for each in self.considered if each.is_last_resort)
        return resorts if resorts and self.peers[:1] and self.peers[0] not in resorts else NO_PEERS


class Placement:
    """Chooses the workers for one submitter's jobs, and learns from what becomes of them."""

    def __init__(self, directory: Directory, rng: random.Random) -> None:
        self.retries = RetryBudget()
        self._directory = directory
        self._rng = rng
        self._roster = Roster(directory)
        self._observations = Observations()
        self._breakers = Breakers(rng)
        self._doubts = Doubts()

    def choose(self, needs: JobNeeds, now: float, near: Collection[PeerId] = ()) -> Choice:
        """Return whom to ask for a new job, best guess first, and everyone who was considered.

        ``near`` are the peers with sessions when there is hardly room for another one: of a mesh
        too large to weigh, only they are considered then.
        """
        if needs.peer is not None:
            considered = [self._consider_named(needs.peer, needs, now)]
            return Choice(considered, order(considered, self._rng), 1)
        pool = self._roster.pool(needs)
        if len(pool.weights) <= MAX_CONSIDERED:
            choice = self._choose_of_all(pool, list(pool.stated), needs, now)
        elif among := [peer for peer in near if peer in pool.stated]:
            choice = self._choose_of_all(pool, among, needs, now)
        else:
            choice = self._choose_of_many(pool, needs, now)
        resorts = choice.last_resorts
        for peer in [each for each in choice.peers[:FIRST_OFFERS] if each not in resorts]:
            self._breakers.claim_trial((peer, _subject(needs)), now)
        return choice

    def note(
        self, terms: Terms, peer: PeerId, sign: Sign, now: float, *, is_cold: bool = False
    ) -> None:
        """Learn from what became of an offer of this job, or of an attempt at it; ``is_cold`` is
        whether its worker says that it had to load the model.
        """
        key = Key(peer, _subject(terms), terms.precision)
        match sign:
            case Sign.ACCEPTED:
                self._observations.began(key, now)
            case Sign.DONE:
                size_bytes = terms.size_bytes
                self._observations.finished(key, terms.units, size_bytes, now, is_cold=is_cold)
                self._breakers.succeeded(key[:2])
            case Sign.FAULT | Sign.LOST:
                self._observations.dropped(key)
                self._breakers.failed(key[:2], now)
            case Sign.SILENT | Sign.UNANSWERED:
                if sign is Sign.SILENT:
                    self._observations.dropped(key)
                self._breakers.silent(key[:2], now)
            case Sign.ENDED:
                self._observations.dropped(key)

    def met(self, peer: PeerId, now: float) -> None:
        """A peer says hello."""
        self._breakers.met(peer, now)

    def doubt(self, peer: PeerId, model: str, doubt: float, now: float) -> None:
        """Give a peer fewer jobs of a model, for its output was not what others computed."""
        self._doubts.add((peer, model), doubt, now)

    def offer_of(self, peer: PeerId, model: str) -> ModelOffer | None:
        """Return what a worker says of a model, if it offers it now."""
        worker = self._directory.worker(peer)
        offers = worker.advert.models if worker and worker.advert else ()
        return next((offer for offer in offers if offer.name == model), None)

    def advert_of(self, peer: PeerId) -> Advert | None:
        """What a worker says of itself, if it is known and current."""
        worker = self._directory.worker(peer)
        return worker.advert if worker is not None else None

    def models(self) -> dict[str, list[str]]:
        """Return the kinds of every model that workers offer now, by its name."""
        offers = offered(self._directory)
        return {name: sorted({offer.kind for offer in each}) for name, each in offers.items()}

    def holders(self, model: str) -> int:
        """Return how many workers offer a model now."""
        workers = self._directory.workers()
        return sum(
            any(offer.name == model for offer in worker.advert.models)
            for worker in workers
            if worker.advert
        )

    def _consider_named(self, peer: PeerId, needs: JobNeeds, now: float) -> Candidate:
        worker = self._directory.worker(peer)
        if worker is None:
            is_known = self._directory.get(peer) is not None
            return Candidate(peer, 0.0, GONE if is_known else "is not known here")
        assert worker.advert is not None, "a worker in the directory has a current advert"
        reason = why_not(worker.advert, needs)
        return self._consider(worker, stated_speed(worker.advert, needs.kind), reason, needs, now)

    def _choose_of_all(
        self, pool: Pool, among: list[PeerId], needs: JobNeeds, now: float
    ) -> Choice:
        considered = [
            self._consider(worker, pool.stated[worker.peer_id], None, needs, now)
            for worker in map(self._directory.worker, among)
            if worker is not None
        ]
        peers = order(considered, self._rng)
        untried = [each.peer for each in considered if each.reason is None and not each.results]
        if untried and self._rng.random() < EXPLORED:
            peers = _with_first(self._rng.choice(untried), peers)
        room = MAX_CONSIDERED - len(considered)
        unfit = [Candidate(peer, 0.0, reason) for peer, reason in list(pool.reasons.items())[:room]]
        return Choice([*considered, *unfit], peers, len(pool.weights))

    def _choose_of_many(self, pool: Pool, needs: JobNeeds, now: float) -> Choice:
        drawn = pool.draw(DRAWN, self._rng, now)
        if self._rng.random() < EXPLORED:
            drawn = _with_first(pool.any(self._rng), drawn)
        considered: list[Candidate] = []
        for peer in drawn:
            worker = self._directory.worker(peer)
            if worker is None or peer not in pool.stated:
                pool.exclude(peer)  # until the directory hears of it again
                continue
            candidate = self._consider(worker, pool.stated[peer], None, needs, now)
            pool.weigh(peer, candidate.speed)
            considered.append(candidate)
        fitting = [each.peer for each in considered if each.reason is None]
        peers = [*fitting, *_last_resorts(considered, self._rng)]
        return Choice(considered, peers, len(pool.weights))

    def _consider(
        self,
        worker: Entry,
        stated: float | None,
        reason: str | None,
        needs: JobNeeds,
        now: float,
    ) -> Candidate:
        """Say how fast a worker is, by its advert and by what we saw; ``reason`` is why its advert
        rules it out.
        """
        peer = worker.peer_id
        speed, basis, results = self._speed(worker, stated, needs, now)
        if reason is None and peer in needs.excluded:
            reason = EXCLUDED
        left_alone = self._breakers.why_open((peer, _subject(needs)), now)
        if left_alone is None and worker.is_overdue:
            left_alone = OVERDUE
        share = self._doubts.share((peer, needs.model), now)
        if share < 1:
            doubted = f"gave other output than others, and is considered for {share:.0%} of jobs"
            basis = f"{basis}; {doubted}"
            # Passed over as a whole: of few candidates all are offered a job, whatever they weigh.
            if left_alone is None and self._rng.random() >= share:
                left_alone = doubted
        is_last_resort = reason is None and left_alone is not None
        return Candidate(peer, speed, reason or left_alone, basis, results, is_last_resort)

    def _speed(self, worker: Entry, stated: float | None, needs: JobNeeds, now: float) -> Speed:
        advert = worker.advert
        key = Key(worker.peer_id, _subject(needs), needs.precision)
        if not stated or advert is None:
            seen = self._observations.speed(key, UNMEASURED_GFLOPS, now, LEAST_TRUST)
            return seen or Speed(UNMEASURED_GFLOPS, "not measured")
        trust = trust_in(advert, needs.kind, self._directory.now_us())
        seen = self._observations.speed(key, stated, now, trust)
        return seen or Speed(stated, basis_of(advert, needs.kind))


def order(considered: Iterable[Candidate], rng: random.Random) -> list[PeerId]:
    """Return the peers that will do, sampled without replacement, faster ones likely first; behind
    all of them those that are a last resort.
    """
    listed = list(considered)
    fitting = [candidate for candidate in listed if candidate.reason is None]
    return [*_drawn(fitting, rng), *_last_resorts(listed, rng)]


def explain(
    needs: JobNeeds,
    considered: Sequence[Candidate],
    refusals: dict[str, Refuse] | None = None,
    asked: Collection[PeerId] = (),
) -> str:
    """Say what was looked for, and what everyone who was considered had to say, also those that
    were ``asked`` and said nothing.
    """
    reasons = {candidate.peer: candidate.reason or "was not asked" for candidate in considered}
    reasons.update(dict.fromkeys(asked, "did not answer in time"))
    for peer, refuse in (refusals or {}).items():
        reasons[peer] = f"{refuse.code} ({refuse.reason})"
    told = [f"{peer}: {reason}" for peer, reason in reasons.items()]
    if len(told) > EXPLAINED:
        told[EXPLAINED:] = [f"and {len(told) - EXPLAINED} more"]
    return f"looked for {needs}; {'; '.join(told) or 'no worker is known'}"


def _last_resorts(considered: Iterable[Candidate], rng: random.Random) -> list[PeerId]:
    return _drawn([candidate for candidate in considered if candidate.is_last_resort], rng)


def _drawn(candidates: Iterable[Candidate], rng: random.Random) -> list[PeerId]:
    # Efraimidis and Spirakis: the first of many exponential clocks is a weighted draw
    drawn = [(rng.expovariate(candidate.speed), candidate.peer) for candidate in candidates]
    return [peer for _, peer in sorted(drawn)]


def _subject(job: JobNeeds | Terms) -> str:
    """What an observation is about: a benchmark of a model says nothing of how its jobs fare."""
    return f"{job.kind} {job.model}" if is_benchmark(job.kind) else job.model


def _with_first(peer: PeerId, peers: list[PeerId]) -> list[PeerId]:
    return [peer, *(other for other in peers if other != peer)]
