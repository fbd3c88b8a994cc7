"""Inputs that a worker has in part: their session was lost before they were whole.

The submitter of such a job may come back with it within ``ORPHAN_S``, and then sends the rest only.
Until then its lease is free for others, and all that is kept is bounded.
"""

from __future__ import annotations

from protocols.job import Terms
from protocols.kept_outcomes import KeptOutcomes
from protocols.limits import MAX_PARTIAL_INPUT_BYTES, MAX_WORKER_JOBS, ORPHAN_S
from protocols.pieces import Incoming
from protocols.session import JobKey


class PartialInputs:
    """What is kept, oldest first."""

    def __init__(self) -> None:
        self._inputs: dict[JobKey, tuple[Terms, Incoming, float]] = {}
        self._kept = KeptOutcomes(MAX_WORKER_JOBS, MAX_PARTIAL_INPUT_BYTES)

    def __len__(self) -> int:
        return len(self._inputs)

    @property
    def next_deadline(self) -> float:
        """When ``drop_old`` is due."""
        return next((until for _, _, until in self._inputs.values()), float("inf"))

    def keep(self, key: JobKey, terms: Terms, content: Incoming, now: float) -> None:
        """Keep what came of a job's input."""
        self._drop(key)
        self._inputs[key] = terms, content, now + ORPHAN_S
        self._kept.add(key, content.size_bytes)
        for dropped in self._kept.overflow():
            del self._inputs[dropped]

    def take(self, key: JobKey, terms: Terms) -> Incoming:
        """Return what is here of a job's input and keep it no longer; what came under other terms
        is of another input.
        """
        known, content, _ = self._inputs.get(key, (None, None, 0.0))
        self._drop(key)
        if content is not None and known == terms:
            return content
        return Incoming(terms.input_salt, terms.size_bytes)

    def drop_old(self, now: float) -> None:
        """Drop what nobody came back for."""
        while self.next_deadline <= now:
            self._drop(next(iter(self._inputs)))

    def _drop(self, key: JobKey) -> None:
        if self._inputs.pop(key, None):
            self._kept.remove(key)
