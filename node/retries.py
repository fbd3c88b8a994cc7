"""The retry budget of a submitter: jobs that their workers spoil may be tried again only so often.

When everything fails, retries would triple the load of a mesh that is in trouble already. Every new
job earns a tenth of a retry; a submitter with few jobs regains a small floor with time. Attempts
that were lost with their session or in silence are not counted: nothing was computed there twice
on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.limits import RETRY_BURST, RETRY_FLOOR, RETRY_REGAIN_S, RETRY_SHARE


@dataclass(slots=True)
class RetryBudget:
    """A token bucket; ``now`` is any clock that does not go back."""

    _tokens: float = RETRY_FLOOR
    _counted_at: float = 0.0

    def earn(self) -> None:
        """A new job was submitted."""
        self._tokens = min(self._tokens + RETRY_SHARE, RETRY_BURST)

    def take(self, now: float) -> bool:
        """Whether one more retry may be made; it is counted then."""
        if self._tokens < RETRY_FLOOR:
            regained = (now - self._counted_at) / RETRY_REGAIN_S
            self._tokens = min(self._tokens + regained, RETRY_FLOOR)
        self._counted_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
