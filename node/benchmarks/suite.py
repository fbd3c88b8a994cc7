"""Which benchmarks make a suite, with which parameters, for what a worker offers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from node import benchmarks
from node.needs import serves
from protocols.advert import ModelOffer
from protocols.keys import PeerId

NONE: Final = "none"
"""The precision of the model ``machine``."""

SUITES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "quick": {
        benchmarks.COMPUTE: {"seconds": 0.4, "size": 768},
        benchmarks.MEMORY: {"seconds": 0.3, "copy_mb": 64},
        benchmarks.NETWORK: {"pings": 100, "rounds": 5, "round_mb": 1},
    },
    "full": {
        benchmarks.COMPUTE: {"seconds": 5.0, "size": 768},
        benchmarks.MEMORY: {"seconds": 5.0, "copy_mb": 256},
        benchmarks.NETWORK: {"pings": 500, "rounds": 6, "round_mb": 8},
    },
}
OF_MODELS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "quick": {
        "embed": {"seconds": 0.4, "batches": [1, 8, 32], "words": 16, "tokens": 16},
        "generate": {"seconds": 2.0, "batches": [1, 8], "words": 16, "tokens": 16},
    },
    "full": {
        "embed": {"seconds": 5.0, "batches": [1, 4, 16, 64], "words": 16, "tokens": 16},
        "generate": {"seconds": 15.0, "batches": [1, 8], "words": 16, "tokens": 16},
    },
}
"""How a suite measures a model, by its kind: to write takes a hundred times as long as to read."""
WITHIN_S: Final = {"quick": 120.0, "full": 600.0}
"""For one benchmark, with the jobs that it waits for until it is alone."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One benchmark that is to be run at one worker."""

    peer: PeerId
    kind: str
    model: str
    precision: str
    parameters: dict[str, Any]
    timeout_s: float


def plan(
    suite: str, peer: PeerId, offers: Iterable[ModelOffer], *, is_self: bool
) -> Iterator[Planned]:
    """Yield the benchmarks of a suite for a worker that offers these models: the quick one measures
    each model in its declared precision, the full one in all. A node has no network to itself.
    """
    within_s = WITHIN_S[suite]
    for kind, asked in SUITES[suite].items():
        if not (is_self and kind == benchmarks.NETWORK):
            yield Planned(peer, kind, benchmarks.MACHINE, NONE, asked, within_s)
    for offer in offers:
        asked = OF_MODELS[suite].get(offer.kind)
        if asked is None or not serves(offer, benchmarks.MODEL):
            continue
        for precision in offer.precisions if suite == "full" else offer.precisions[:1]:
            yield Planned(peer, benchmarks.MODEL, offer.name, precision, asked, within_s)


def chosen(planned: Iterable[Planned], kinds: Collection[str]) -> list[Planned]:
    """Return those of these kinds; all if none is named."""
    return [each for each in planned if not kinds or each.kind in kinds]
