"""The jobs of this node that ended lately: a retried one goes on above their fences, and a result
that comes after the end is recorded once. What else comes is recorded so often only that no worker
fills the journal.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from protocols.job import Done, Failed
from protocols.keys import PeerId
from protocols.limits import MAX_STRAY_RESULTS, MAX_SUBMITTER_JOBS
from protocols.submitter_job import SubmitterJob


@dataclass(slots=True)
class _Past:
    fence: int
    owed: set[tuple[PeerId, int]]


class PastJobs:
    """The last ``MAX_SUBMITTER_JOBS`` of this daemon's life."""

    def __init__(self) -> None:
        self._past: OrderedDict[bytes, _Past] = OrderedDict()
        self._strays: Counter[PeerId] = Counter()
        """How many outcomes that nobody owed us each worker had recorded or copied here."""

    def add(self, machine: SubmitterJob) -> None:
        """A job has ended."""
        self._past[machine.terms.job_id] = _Past(machine.fence, set(machine.owed))
        if len(self._past) > MAX_SUBMITTER_JOBS:
            self._past.popitem(last=False)

    def resume(self, job_id: bytes) -> int:
        """A job is submitted, perhaps again: forget its past and return the last fence of it, or
        0.
        """
        past = self._past.pop(job_id, None)
        return past.fence if past else 0

    def is_recorded(self, peer: PeerId, outcome: Done | Failed) -> bool:
        """Whether this outcome of a job that is not under way is to be recorded, or what its worker
        recorded of it copied: one that the worker still owed, or one of ``MAX_STRAY_RESULTS``
        others, as after a crash of ours.
        """
        past = self._past.get(outcome.job_id)
        owed = (peer, outcome.fence)
        if past is not None and owed in past.owed:
            past.owed.remove(owed)
            return True
        if self._strays[peer] >= MAX_STRAY_RESULTS:
            return False
        self._strays[peer] += 1
        return True
