"""How long a lease lasts: each side keeps its own clock, for only durations cross the wire.

A lease that was given but not accepted ends after ``LEASE_ACCEPT_S``. From acceptance on it ends
``LEASE_TTL_S`` after the last sign of life, and the worker gives one every ``LEASE_RENEW_S``. Times
are seconds of a monotonic clock and come in as arguments.
"""

from __future__ import annotations

from protocols.limits import LEASE_ACCEPT_S, LEASE_RENEW_S, LEASE_TTL_S


class LeaseClock:
    """One side's view of one lease, given at ``now``."""

    def __init__(self, now: float) -> None:
        self.is_accepted = False
        self.ends_at = now + LEASE_ACCEPT_S
        self.renew_at = now + LEASE_RENEW_S

    def accept(self, now: float) -> None:
        """The lease is taken up: from here on, silence ends it."""
        self.is_accepted = True
        self.renew(now)

    def renew(self, now: float) -> None:
        """A sign of life was heard, or given."""
        self.ends_at = now + LEASE_TTL_S
        self.renew_at = now + LEASE_RENEW_S

    def end(self, now: float) -> None:
        """The other side is gone."""
        self.is_accepted = False
        self.ends_at = now

    def is_over(self, now: float) -> bool:
        """Whether the lease has ended."""
        return now >= self.ends_at

    def is_due(self, now: float) -> bool:
        """Whether the worker should give a sign of life."""
        return self.is_accepted and now >= self.renew_at
