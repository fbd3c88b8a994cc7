"""One attempt at a job as its submitter sees it: the worker whose lease was accepted, how long it
may still take, and what has come of its output.
"""

from __future__ import annotations

from protocols.errors import RemoteProtocolError
from protocols.job import Chunk, Done, Lease, Renew, Terms
from protocols.job_output import JobOutput
from protocols.lease import LeaseClock
from protocols.pieces import Piece
from protocols.progress import ProgressBudget


class Attempt:
    """Begins at ``now``; what comes of the output goes to ``output``, where it has begun, too.
    ``lease`` is missing when the worker had the input with its offer.
    """

    def __init__(
        self,
        worker: str,
        terms: Terms,
        now: float,
        output: JobOutput,
        lease: Lease | None = None,
    ) -> None:
        self.worker = worker
        self.progress = (0, terms.units)
        """Items done, and of how many, by the worker's word."""
        self._lease = LeaseClock(now)
        self._lease.accept(now)
        eta_s = lease.eta_ms / 1_000 if lease else 0.0
        input_bytes = terms.size_bytes if lease and lease.needs_input else 0
        self._budget = ProgressBudget(now, eta_s, input_bytes)
        self._output = output

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
        is_new = self._output.add(Piece(chunk.index, chunk.body, chunk.digest))
        if is_new:  # the same piece again is no progress
            self._budget.moved(now)
        return is_new

    def check(self, done: Done) -> None:
        """Raise ``RemoteProtocolError`` unless the output is whole and the one committed to."""
        if not self._output.is_whole(done.size_bytes, done.output_cid):
            raise RemoteProtocolError(
                "the output that came is not the one that was committed to",
                code="output-mismatch",
                got=self._output.size_bytes,
                size_bytes=done.size_bytes,
            )

    def is_silent(self, now: float) -> bool:
        """Whether its lease is over."""
        return self._lease.is_over(now)

    def why_over(self, now: float) -> str | None:
        """Say why it is given up: the worker is silent, or says that it lives and does nothing."""
        if self.is_silent(now):
            return "its lease ended in silence"
        if self._budget.is_over(now):
            return f"it made no progress for {self._budget.stall_s:.0f} s"
        return None
