"""Which token comes next: a pure function of the logits, the seed and the token's place.

Every random number is the hash of its place, not the next one of a generator. So a continuation can
be taken up anywhere, and what else is written at the same time changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.runner.kinds import BadOutputError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose: at ``temperature`` 0 the likeliest token, else by chance among the likeliest
    that together have the share ``top_p``.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def choose(logits: NDArray[np.float32], sampling: Sampling, item: int, place: int) -> int:
    """Return the token at ``place`` of the continuation of prompt number ``item``.

    Raises ``BadOutputError`` when the logits are not numbers.
    """
    best = int(logits.argmax())
    if not np.isfinite(logits).all():
        raise BadOutputError(f"the logits of item {item} are not finite", item=item)
    if sampling.temperature == 0:
        return best
    with np.errstate(over="ignore", under="ignore"):  # of a temperature next to nothing
        scaled = (logits.astype(np.float64) - float(logits[best])) / sampling.temperature
        likely = np.exp(scaled)
    if sampling.top_p < 1:
        likely[likely < _least_kept(likely, sampling.top_p)] = 0.0
    sums: NDArray[np.float64] = likely.cumsum()
    point = uniform(sampling.seed, item, place) * float(sums[-1])
    return min(int(np.searchsorted(sums, point, side="right")), int(np.flatnonzero(likely)[-1]))


def uniform(seed: int, item: int, place: int) -> float:
    """Return a number from 0 up to 1 that looks random, and is always the same."""
    digest = blake2b(b"%d %d %d" % (seed, item, place), digest_size=8, person=b"covey sample")
    return (int.from_bytes(digest.digest(), "big") >> 11) / (1 << 53)


def _least_kept(likely: NDArray[np.float64], top_p: float) -> Any:
    """Return the smallest likelihood among the most likely tokens that reach the share; tokens that
    are as likely are all kept.
    """
    falling = np.sort(likely)[::-1]
    sums: NDArray[np.float64] = falling.cumsum()
    return falling[min(int(np.searchsorted(sums, top_p * float(sums[-1]))), len(falling) - 1)]
