"""The outside world that logic may not reach for by itself: wall clock and randomness, chosen once
in each ``daemon.py``.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effects:
    """Clock and randomness as values. Durations come from ``trio.current_time``, which tests make
    virtual.
    """

    now_us: Callable[[], int]
    """Wall clock in microseconds since 1970, UTC. Data only: nothing may be ordered by it."""
    token: Callable[[int], bytes]
    """Bytes fit for keys, secrets and identifiers."""
    rng: random.Random
    """For choices and jitter, never for secrets."""


def system_effects() -> Effects:
    """Return the real clock and the operating system's randomness."""
    return Effects(
        now_us=lambda: time.time_ns() // 1_000,
        token=secrets.token_bytes,
        rng=random.Random(secrets.randbits(64)),
    )
