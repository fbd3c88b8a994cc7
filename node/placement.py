"""Where a job may run: who offers what it needs, in the order in which to ask them.

The order is a sample without replacement, weighted by measured speed: its first two get the offer,
the rest is for widening. Load is never looked at here; the answers to the offers tell it as it is.
Everyone who was considered is listed with the reason why not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from peer.directory import Directory, Entry
from protocols.advert import Advert, ModelOffer
from protocols.job import Refuse
from protocols.keys import PeerId

AUTO: Final = "auto"
SPEED: Final = "matmul_gflops"
UNMEASURED_GFLOPS: Final = 1.0  # a slow core: unmeasured peers are tried, but seldom first


@dataclass(frozen=True, slots=True)
class JobNeeds:
    """What a job looks for; ``peer`` is the only one that will do, if given."""

    kind: str
    model: str
    precision: str = AUTO
    peer: PeerId | None = None

    def __str__(self) -> str:
        where = f" at {self.peer}" if self.peer else ""
        return f"kind {self.kind}, model {self.model}, precision {self.precision}{where}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One peer that was considered: its measured speed, or the reason why it will not do."""

    peer: PeerId
    speed: float
    reason: str | None = None


def candidates(directory: Directory, needs: JobNeeds) -> list[Candidate]:
    """Return everyone who was considered for a job."""
    if needs.peer is None:
        return [_consider(entry, needs) for entry in directory.workers()]
    known = [entry for entry in directory.workers() if entry.peer_id == needs.peer]
    if known:
        return [_consider(known[0], needs)]
    is_member = directory.get(needs.peer) is not None
    reason = "has no current advert as a worker" if is_member else "is not known here"
    return [Candidate(needs.peer, 0.0, reason)]


def order(considered: Iterable[Candidate], rng: random.Random) -> list[PeerId]:
    """Return the peers that will do, sampled without replacement, faster ones likely first."""
    fitting = [candidate for candidate in considered if candidate.reason is None]
    # Efraimidis and Spirakis: sorting by random() ** (1 / weight) is a weighted sample
    drawn = [(rng.random() ** (1.0 / candidate.speed), candidate.peer) for candidate in fitting]
    return [peer for _, peer in sorted(drawn, reverse=True)]


def explain(
    needs: JobNeeds, considered: Sequence[Candidate], refusals: dict[str, Refuse] | None = None
) -> str:
    """Say what was looked for, and what everyone who was considered had to say."""
    reasons = {candidate.peer: candidate.reason or "was not asked" for candidate in considered}
    for peer, refuse in (refusals or {}).items():
        reasons[peer] = f"{refuse.code} ({refuse.reason})"
    told = "; ".join(f"{peer}: {reason}" for peer, reason in reasons.items())
    return f"looked for {needs}; {told or 'no worker is known'}"


def _consider(entry: Entry, needs: JobNeeds) -> Candidate:
    advert = entry.advert
    assert advert is not None, "a worker in the directory has a current advert"
    return Candidate(entry.peer_id, speed_of(advert), _why_not(advert, needs))


def _why_not(advert: Advert, needs: JobNeeds) -> str | None:
    offers = [offer for offer in advert.models if offer.name == needs.model]
    if not offers and advert.hardware is None:
        return "still measures its hardware: it offers its models in a few seconds"
    if not offers:
        return f"has no model {needs.model}"
    of_kind = [offer for offer in offers if offer.kind == needs.kind]
    if not of_kind:
        return f"runs {needs.model} as {offers[0].kind}, not {needs.kind}"
    if not any(_has_precision(offer, needs.precision) for offer in of_kind):
        return f"runs {needs.model} in {', '.join(of_kind[0].precisions)} only"
    return None


def _has_precision(offer: ModelOffer, precision: str) -> bool:
    return precision == AUTO or precision in offer.precisions


def speed_of(advert: Advert) -> float:
    """Return the measured speed that an advert states; nothing that it says makes it zero or
    infinite.
    """
    stated = cast("object", advert.capabilities.get(SPEED))
    if not isinstance(stated, (int, float)) or not 0 < stated < 1e9:
        return UNMEASURED_GFLOPS
    return float(stated)
