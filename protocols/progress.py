"""How long an attempt may go without progress: signs of life keep a lease, and only work keeps the
job.

A worker that renews for ever, or stalls after its first chunk, would else hold a job until its
whole budget is spent. Progress is an item done or a piece of output. The first must come within
three times the lease's ``eta_ms``, and each further one within as much again; what the input may
take to get there is added to the first. A worker that does not know how long it takes may load its
model first, and is held to three times what its own first step took from then on. Against a worker
that invents progress there is the job's whole budget. Times are seconds of a monotonic clock and
come in as arguments.
"""

from __future__ import annotations

from protocols.limits import (
    FIRST_PROGRESS_S,
    INPUT_BYTES_PER_S_MIN,
    STALL_ESTIMATES,
    STALL_S_MIN,
)


class ProgressBudget:
    """How long one attempt, accepted at ``now``, may go on as it is.

    ``eta_s`` is the lease's, 0 when the worker knows nothing; ``input_bytes`` is what it still
    needs of the input.
    """

    def __init__(self, now: float, eta_s: float = 0.0, input_bytes: int = 0) -> None:
        first_s = stall_s(eta_s) if eta_s > 0 else FIRST_PROGRESS_S
        self.stall_s = first_s + input_bytes / INPUT_BYTES_PER_S_MIN
        """How long the next step may take."""
        self.ends_at = now + self.stall_s
        self._began_at = now
        self._eta_s = eta_s
        self._items_done = 0
        self._has_moved = False

    def items_are_done(self, count: int, now: float) -> None:
        """The worker says how far it is; what it said before is no progress."""
        if count > self._items_done:
            self._items_done = count
            self.moved(now)

    def moved(self, now: float) -> None:
        """There was progress."""
        if not self._has_moved:
            self._has_moved = True
            self.stall_s = stall_s(self._eta_s or now - self._began_at)
        self.ends_at = now + self.stall_s

    def is_over(self, now: float) -> bool:
        """Whether the attempt has stalled."""
        return now >= self.ends_at


def stall_s(expected_s: float) -> float:
    """Return how long a step may take when the whole job is expected to take ``expected_s``."""
    return max(STALL_S_MIN, STALL_ESTIMATES * expected_s)
