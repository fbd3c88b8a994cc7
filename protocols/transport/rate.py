"""A token bucket without a clock: how many messages may go out now."""

from __future__ import annotations


class RateLimiter:
    """Allows ``per_second`` messages a second, and as many at once after a quiet one."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._refilled_at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more message may go out at this moment, in seconds of any clock that never
        goes back.
        """
        elapsed = max(0.0, now - self._refilled_at)
        self._refilled_at = now
        self._tokens = min(float(self._per_second), self._tokens + elapsed * self._per_second)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
