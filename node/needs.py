"""What a job looks for in a worker, and whether an advert says that it is there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Protocol

from node.benchmarks import MACHINE
from node.requirements import NOTHING, SPEED, Requirements, accelerator, number, why_unmet
from node.runner.kinds import is_accelerated, runs_on
from protocols.advert import Advert, ModelOffer
from protocols.keys import PeerId

AUTO: Final = "auto"
UNMEASURED_GFLOPS: Final = 1.0  # a slow core: unmeasured peers are tried, but seldom first
MEASURES: Final = "still measures its hardware: it offers its models in a few seconds"
SAMPLES: Final = "matmul_n"
"""How many samples an advert's speed is the median of."""
MEASURED_AT: Final = "measured_at_us"
"""When that was, by its author's clock."""
MAX_SAMPLES: Final = 1_000_000  # more is nonsense
LATEST_US: Final = 253_402_300_800_000_000  # the year 10000, which no calendar here has
FEW_SAMPLES: Final = 3  # a median of so many is believed half as far as one of very many
STALE_S: Final = 7 * 86_400.0  # what a machine does besides changes within days
LEAST_TRUST: Final = 0.25  # then one result of ours says as much as four against a fresh figure
SLOWEST_GFLOPS: Final = 1e-3  # so that no statement makes a division overflow


@dataclass(frozen=True, slots=True)
class JobNeeds:
    """What a job looks for; ``peer`` is the only one that will do, if given."""

    kind: str
    model: str
    precision: str = AUTO
    peer: PeerId | None = None
    requirements: Requirements = NOTHING
    excluded: frozenset[PeerId] = frozenset()
    """Who must not run it: they have already."""
    model_cid: bytes = b""
    """The only model of that name that will do, if given."""

    def __str__(self) -> str:
        demands = f", {self.requirements}" if self.requirements != NOTHING else ""
        where = f" at {self.peer}" if self.peer else ""
        return f"kind {self.kind}, model {self.model}, precision {self.precision}{demands}{where}"


def why_not(advert: Advert, needs: JobNeeds) -> str | None:
    """Say why this worker will not do; None if it will, as far as its advert tells."""
    if needs.model == MACHINE:  # every worker has it, and says so nowhere
        is_ready = advert.hardware is not None
        return why_unmet(needs.requirements, advert.capabilities) if is_ready else MEASURES
    offers = [offer for offer in advert.models if offer.name == needs.model]
    if not offers and advert.hardware is None:
        return MEASURES
    if not offers:
        return why_without(needs.model)
    of_kind = [offer for offer in offers if serves(offer, needs.kind)]
    if not of_kind:
        return f"runs {needs.model} as {offers[0].kind}, not {needs.kind}"
    if needs.model_cid and all(bytes(offer.cid) != needs.model_cid for offer in of_kind):
        return f"has another model of the name {needs.model}"
    if not any(_has_precision(offer, needs.precision) for offer in of_kind):
        return _other_precisions(of_kind[0])
    return why_unmet(needs.requirements, advert.capabilities)


def why_without(model: str) -> str:
    """Say what is wrong with a worker that lacks a model."""
    return f"has no model {model}"


def _other_precisions(offer: ModelOffer) -> str:
    if offer.backend:
        return f"has {offer.name} from an upstream that does not say its precision"
    return f"runs {offer.name} in {', '.join(offer.precisions)} only"


class _Served(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def backend(self) -> str: ...


def serves(model: _Served, kind: str) -> bool:
    """Whether jobs of ``kind`` run on a model: an upstream's does only what it is for."""
    return kind == model.kind or (not model.backend and runs_on(kind, model.kind))


def stated_speed(advert: Advert, kind: str) -> float | None:
    """Return the measured speed at which a worker says that it runs jobs of ``kind``, if it states
    one that can be.
    """
    stated = number(_computing(advert, kind).get(SPEED))
    return max(stated, SLOWEST_GFLOPS) if stated else None


def basis_of(advert: Advert, kind: str) -> str:
    """Say what ``stated_speed`` rests on: how many samples, measured when."""
    speed = stated_speed(advert, kind) or UNMEASURED_GFLOPS
    return _basis(speed, *_measurement(advert, kind))


def trust_in(advert: Advert, kind: str, now_us: int) -> float:
    """Return how far to believe ``stated_speed``, against what was seen: 1 for many samples of just
    now, less the fewer and the older they are, ``LEAST_TRUST`` at least.
    """
    samples, at_us = _measurement(advert, kind)
    counted = min(max(samples, 1), MAX_SAMPLES)
    age_s = max(0, now_us - at_us) / 1e6 if at_us > 0 else math.inf
    return max(LEAST_TRUST, counted / (counted + FEW_SAMPLES) * math.exp(-age_s / STALE_S))


def _computing(advert: Advert, kind: str) -> Mapping[str, Any]:
    """What an advert says of what jobs of ``kind`` run on: its accelerator, or the processor."""
    told = advert.capabilities
    return (is_accelerated(kind) and accelerator(told)) or told


def _measurement(advert: Advert, kind: str) -> tuple[int, int]:
    """How many samples a stated speed is the median of, and when they were taken; 0 is unknown."""
    samples = _computing(advert, kind).get(SAMPLES)
    at_us = advert.capabilities.get(MEASURED_AT)
    return samples if type(samples) is int else 0, at_us if type(at_us) is int else 0


@lru_cache(1_024)  # the candidates of one job are those of the next
def _basis(speed: float, samples: int, at_us: int) -> str:
    basis = f"advert {speed:g} GFLOP/s"
    if 0 < samples < MAX_SAMPLES:
        basis += f" of {samples} sample{'s' if samples > 1 else ''}"
    if 0 < at_us < LATEST_US:
        basis += f", {datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"
    return basis


def _has_precision(offer: ModelOffer, precision: str) -> bool:
    return precision == AUTO or precision in offer.precisions
