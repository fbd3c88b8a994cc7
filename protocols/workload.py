"""What a worker has taken on, kept up to date: every offer asks for it, and counting would look at
each job for each offer.
"""

from __future__ import annotations

from collections import Counter

from protocols.session import JobKey
from protocols.worker_job import Leased, Load, WorkerJob


class Workload:
    """The jobs that are leased or running. An input counts with its declared size from its lease
    on, for it may come at any time, until its job ends, for its runner holds it.
    """

    def __init__(self) -> None:
        self._jobs: Counter[str] = Counter()
        self._input_bytes: Counter[str] = Counter()
        self._leased: dict[JobKey, Leased] = {}

    @property
    def jobs(self) -> int:
        """How many there are."""
        return self._jobs.total()

    def add(self, job: WorkerJob) -> None:
        """A job was leased."""
        self._jobs[job.submitter] += 1
        self._input_bytes[job.submitter] += job.terms.size_bytes
        self._leased[job.key] = Leased(job.submitter, job.terms, job.estimate_s)

    def begin(self, job: WorkerJob) -> None:
        """A job that was leased runs."""
        del self._leased[job.key]

    def remove(self, job: WorkerJob) -> None:
        """A job that was added ends."""
        self._leased.pop(job.key, None)
        self._jobs[job.submitter] -= 1
        self._input_bytes[job.submitter] -= job.terms.size_bytes
        if not self._jobs[job.submitter]:  # submitters come and go
            del self._jobs[job.submitter], self._input_bytes[job.submitter]

    def load(self, submitter: str) -> Load:
        """Return what an offer of that submitter is weighed against."""
        return Load(
            jobs=self.jobs,
            jobs_of_submitter=self._jobs[submitter],
            leased=tuple(self._leased.values()),
            input_bytes=self._input_bytes.total(),
            input_bytes_of_submitter=self._input_bytes[submitter],
        )
