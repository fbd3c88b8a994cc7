"""How long a submitter waits for one attempt, seen by its own clock.

A lease says that its worker lives, and a worker that lives can still do nothing. So an attempt has
budgets of its own beside the lease's 15 s of silence: for the first sign of progress, from one
sign to the next, and from one piece of the output to the next. Signs are items done and new
content. The first two grow with what the worker said that the job would take, so that long jobs of
honest workers live; a worker that has measured nothing yet, and may have to load the model first,
has longer.

Times are seconds of a monotonic clock and come in as arguments.
"""

from __future__ import annotations

from protocols.job import Lease, Terms
from protocols.lease import LeaseClock
from protocols.limits import (
    CHUNK_WITHIN_S,
    INPUT_BYTES_PER_S_MIN,
    PROGRESS_ETA_FACTOR,
    PROGRESS_WITHIN_S,
    UNMEASURED_PROGRESS_S,
)


class AttemptClock:
    """The submitter's view of an attempt that was accepted at ``now``."""

    def __init__(self, now: float, patience_s: float = 0.0, input_s: float = 0.0) -> None:
        self._lease = LeaseClock(now)
        self._lease.accept(now)
        self._patience_s = patience_s
        self._moved_at = now
        self._stalls_at = now + patience_s + input_s
        self._items_done = 0
        self._size_bytes = 0

    @classmethod
    def of(cls, lease: Lease, terms: Terms, now: float) -> AttemptClock:
        """Begin an attempt under ``lease``."""
        least_s = PROGRESS_WITHIN_S if lease.is_measured else UNMEASURED_PROGRESS_S
        patience_s = max(least_s, PROGRESS_ETA_FACTOR * lease.eta_ms / 1_000)
        input_s = terms.size_bytes / INPUT_BYTES_PER_S_MIN if lease.needs_input else 0.0
        return cls(now, patience_s, input_s)

    @property
    def ends_at(self) -> float:
        """When the attempt is lost if nothing comes."""
        return min(self._lease.ends_at, self._stalls_at)

    def heard(self, now: float) -> None:
        """Any message came: the worker lives."""
        self._lease.renew(now)

    def came_to(self, items_done: int, now: float) -> None:
        """The worker tells how far it is."""
        if items_done > self._items_done:
            self._items_done, self._moved_at = items_done, now
            self._stalls_at = now + self._patience_s

    def received(self, size_bytes: int, now: float) -> None:
        """So much of the output is here."""
        if size_bytes > self._size_bytes:
            self._size_bytes, self._moved_at = size_bytes, now
            self._stalls_at = now + CHUNK_WITHIN_S

    def why_over(self, now: float) -> str | None:
        """Return why the attempt is lost, if it is."""
        if self._lease.is_over(now):
            return "its lease ended in silence"
        if now < self._stalls_at:
            return None
        return f"it made no progress for {now - self._moved_at:.0f} s"
