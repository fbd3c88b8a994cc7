"""Outcomes that a worker keeps until they are acknowledged, within limits on bytes and on number.

A submitter that never acknowledges pays for it itself: past a limit the oldest outcome goes of the
submitter that holds the most, and not of those that will come back for theirs.
"""

from __future__ import annotations

from protocols.limits import MAX_OUTCOME_BYTES, MAX_OUTCOMES
from protocols.worker_job import WorkerJob


class KeptOutcomes:
    """Jobs with an outcome, by submitter, oldest first."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._count = 0
        self._jobs: dict[str, dict[bytes, WorkerJob]] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, job: WorkerJob) -> None:
        """Keep a job's outcome."""
        size_bytes = _size(job)
        self._jobs.setdefault(job.submitter, {})[job.terms.job_id] = job
        self._sizes[job.submitter] = self._sizes.get(job.submitter, 0) + size_bytes
        self.size_bytes += size_bytes
        self._count += 1

    def drop(self, job: WorkerJob) -> None:
        """Keep it no more; does nothing when it is not kept."""
        jobs = self._jobs.get(job.submitter)
        if jobs is None or jobs.pop(job.terms.job_id, None) is None:
            return
        self._sizes[job.submitter] -= _size(job)
        self.size_bytes -= _size(job)
        self._count -= 1
        if not jobs:
            del self._jobs[job.submitter], self._sizes[job.submitter]

    def next_out(self) -> WorkerJob | None:
        """Return whose outcome must go to keep the limits; None when they are kept."""
        if self.size_bytes > MAX_OUTCOME_BYTES:
            submitter = max(self._sizes, key=self._sizes.__getitem__)
        elif self._count > MAX_OUTCOMES:
            submitter = max(self._jobs, key=lambda submitter: len(self._jobs[submitter]))
        else:
            return None
        return next(iter(self._jobs[submitter].values()))


def _size(job: WorkerJob) -> int:
    return job.outcome.size_bytes if job.outcome else 0
