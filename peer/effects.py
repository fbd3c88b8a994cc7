"""The outside world that logic may not reach for by itself: wall clock and randomness, chosen once
in each ``daemon.py``.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_SMALL_TOKEN_BYTES: Final = 16  # nonces and identifiers; keys and secrets never lie ready
_READY_TOKENS: Final = 64


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


class Tokens:
    """The operating system's randomness, asked for many small tokens at once: each question lets go
    of the interpreter's lock, and another thread may keep that for milliseconds.

    What lies ready would be given out twice after a fork without an exec, of which there is none.
    """

    def __init__(self) -> None:
        self._ready: dict[int, list[bytes]] = {}

    def take(self, size: int) -> bytes:
        """Return so many bytes that nobody else was or will be given, in whichever thread."""
        if not 0 < size <= _SMALL_TOKEN_BYTES:
            return secrets.token_bytes(size)
        ready = self._ready.setdefault(size, [])
        try:
            return ready.pop()  # one step of the interpreter: no two threads get the same
        except IndexError:
            many = secrets.token_bytes(size * _READY_TOKENS)
            ready += [many[start : start + size] for start in range(size, len(many), size)]
            return many[:size]


def system_effects() -> Effects:
    """Return the real clock and the operating system's randomness."""
    return Effects(
        now_us=lambda: time.time_ns() // 1_000,
        token=Tokens().take,
        rng=random.Random(secrets.randbits(64)),
    )
