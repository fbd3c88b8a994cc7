"""What is known of the kept jobs that are not over from one submission to the next: what they wait
for, how long, and how many attempts at them are over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from protocols.errors import CoveyError, JobFailed

WAIT_S_MIN: Final = 1.0
WAIT_S_MAX: Final = 30.0  # a model that comes is used within half a minute


@dataclass(slots=True)
class _Job:
    reason: CoveyError | None = None
    wait_s: float = 0.0
    attempts: int = 0
    is_spoilt: bool = False


class Waiting:
    """Begins with nothing about any job."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._jobs: dict[bytes, _Job] = {}

    def reason(self, job_id: bytes) -> CoveyError | None:
        """Return what a job waits for, if it does."""
        return self._get(job_id).reason

    def attempts(self, job_id: bytes) -> int:
        """Return how many attempts at it are over."""
        return self._get(job_id).attempts

    def is_spoilt(self, job_id: bytes) -> bool:
        """Whether its worker failed at it: to try it again counts as a retry."""
        return self._get(job_id).is_spoilt

    def begin(self, job_id: bytes, attempts: int) -> None:
        """It is submitted, after so many attempts, and does not wait."""
        job = self._jobs.setdefault(job_id, _Job())
        job.reason, job.attempts, job.is_spoilt = None, attempts, False

    def wait(self, job_id: bytes, error: CoveyError) -> float:
        """Have a job wait for this; return how many seconds: longer each time, from the beginning
        when an attempt at it was lost.
        """
        job = self._jobs.setdefault(job_id, _Job())
        job.reason = error
        job.is_spoilt = job.is_spoilt or isinstance(error, JobFailed)
        if "attempts" in error.details:
            job.attempts, job.wait_s = error.details["attempts"], 0.0
        job.wait_s = min(max(2 * job.wait_s, WAIT_S_MIN), WAIT_S_MAX)
        return job.wait_s * self._rng.uniform(0.5, 1.0)

    def failed(self, job_id: bytes, error: CoveyError) -> None:
        """It will be tried after ``WAIT_S_MAX``, for something is amiss here."""
        self._jobs.setdefault(job_id, _Job()).reason = error

    def hasten(self, job_id: bytes) -> None:
        """There is reason to try it soon again, should it still have to wait."""
        self._jobs.setdefault(job_id, _Job()).wait_s = 0.0

    def forget(self, job_id: bytes) -> None:
        """It is over."""
        self._jobs.pop(job_id, None)

    def _get(self, job_id: bytes) -> _Job:
        return self._jobs.get(job_id, _Job())
