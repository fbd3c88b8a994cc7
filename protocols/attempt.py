"""One attempt at a job as its submitter sees it: the worker whose lease was accepted, how long it
may still take, and what has come of its output.
"""

from __future__ import annotations

from protocols.errors import RemoteProtocolError
from protocols.job import Chunk, Done, Lease, Renew, Terms
from protocols.lease import LeaseClock
from protocols.limits import MAX_JOB_OUTPUT_BYTES
from protocols.pieces import Incoming, Piece
from protocols.progress import ProgressBudget


class Attempt:
    """Begins at ``now``; ``lease`` is missing when the worker had the input with its offer."""

    def __init__(self, worker: str, terms: Terms, now: float, lease: Lease | None = None) -> None:
        self.worker = worker
        self.progress = (0, terms.items)
        """Items done, and of how many, by the worker's word."""
        self._lease = LeaseClock(now)
        self._lease.accept(now)
        eta_s = lease.eta_ms / 1_000 if lease else 0.0
        input_bytes = terms.size_bytes if lease and lease.needs_input else 0
        self._budget = ProgressBudget(now, eta_s, input_bytes)
        self._output = Incoming(terms.output_salt, MAX_JOB_OUTPUT_BYTES)

    @property
    def ends_at(self) -> float:
        """When it is given up unless something is heard."""
        return min(self._lease.ends_at, self._budget.ends_at)

    def heard(self, now: float) -> None:
        """The worker lives."""
        self._lease.renew(now)

    def renewed(self, renew: Renew, now: float) -> None:
        """The worker says how far it is."""
        self.progress = (renew.items_done, renew.items_total)
        self._budget.items_are_done(renew.items_done, now)

    def add(self, chunk: Chunk, now: float) -> bool:
        """Take a piece of the output and tell whether it is new; raises ``RemoteProtocolError`` if
        it can't be the next.
        """
        had_bytes = self._output.size_bytes
        self._output.add(Piece(chunk.index, chunk.body, chunk.digest))
        is_new = self._output.size_bytes > had_bytes
        if is_new:  # the same piece again is no progress
            self._budget.moved(now)
        return is_new

    def check(self, done: Done) -> None:
        """Raise ``RemoteProtocolError`` unless the output is whole and the one committed to."""
        if not self._output.holds(done.size_bytes) or self._output.cid != done.output_cid:
            raise RemoteProtocolError(
                "the output that came is not the one that was committed to",
                code="output-mismatch",
                got=self._output.size_bytes,
                size_bytes=done.size_bytes,
            )

    def output(self) -> bytes:
        """Return what has come of the output."""
        return self._output.content()

    def is_silent(self, now: float) -> bool:
        """Whether its lease is over."""
        return self._lease.is_over(now)

    def is_stalled(self, now: float) -> bool:
        """Whether the worker says that it lives, and does nothing."""
        return self._budget.is_over(now)

    @property
    def stall_s(self) -> float:
        """How long it may live without progress."""
        return self._budget.stall_s
