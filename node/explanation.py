"""Why a job went where it went: who was considered, what each said, and every step on the way.

What was looked at is kept as it is while the job runs; sentences are made when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from node import job_story
from node.placement import Candidate, JobNeeds
from protocols.job_history import JobHistory, Step
from protocols.session import JobState
from protocols.submitter_job import SubmitterJob

MAX_KEPT: Final = 256  # candidates; in a mesh of thousands those that were asked are enough


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known about the placement of one job. ``began_us`` is the wall clock when the
    history's clock said ``began_at``.
    """

    needs: JobNeeds
    considered: Sequence[Candidate]
    job_id: bytes
    state: str
    worker: str | None
    attempts: int
    history: JobHistory
    began_at: float
    began_us: int

    @classmethod
    def of_nobody(
        cls,
        needs: JobNeeds,
        considered: Sequence[Candidate],
        job_id: bytes,
        began: tuple[float, int],
    ) -> Explanation:
        """Return what is known of a job that nobody could be asked for."""
        state = JobState.FAILED.value
        return cls(needs, considered, job_id, state, None, 0, JobHistory(), *began)

    @classmethod
    def of(
        cls,
        needs: JobNeeds,
        considered: Sequence[Candidate],
        machine: SubmitterJob,
        began: tuple[float, int],
    ) -> Explanation:
        """Return what is known now; holds nothing of the job's input and output."""
        asked = {step.peer for step in machine.history.steps} if len(considered) > MAX_KEPT else ()
        kept = [each for each in considered if each.peer in asked] if asked else considered
        return cls(
            needs,
            kept,
            machine.terms.job_id,
            machine.state.value,
            machine.worker,
            machine.attempts,
            machine.history,
            *began,
        )

    def told(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        fastest_first = sorted(self.considered, key=lambda each: -each.speed)
        steps = self.steps()
        told: dict[str, Any] = {
            "job_id": self.job_id.hex(),
            "looked_for": str(self.needs),
            "state": self.state,
            "worker": self.worker,
            "attempts": self.attempts,
            "candidates": [_row(each) for each in fastest_first],
            "steps": steps,
            "steps_dropped": self.history.dropped,
        }
        return retold(told, steps, self.state)

    def steps(self, first: int = 0) -> list[dict[str, Any]]:
        """Return what happened, from the step of that number on."""
        return [self._step(each) for each in self.history.steps[first:]]

    def _step(self, step: Step) -> dict[str, Any]:
        at_us = self.began_us + int((step.at - self.began_at) * 1e6)
        return {
            "at": moment(at_us),
            "what": step.what,
            "peer": step.peer,
            "fence": step.fence,
            "detail": step.detail,
        }


def moment(time_us: int) -> str:
    """Return a wall-clock time for people and JSON."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds")


def retold(told: dict[str, Any], steps: Sequence[dict[str, Any]], state: str) -> dict[str, Any]:
    """Return what was told of a job's last try with all of its steps, and where it stands now."""
    return {
        **told,
        "state": state,
        "attempts": max(told["attempts"], job_story.attempts(steps)),
        "candidates": job_story.rows(told["candidates"], steps, state),
        "steps": steps,
    }


def untold(job_id: str, looked_for: str) -> dict[str, Any]:
    """Return what is told of a job that was never put to anybody."""
    return {
        "job_id": job_id,
        "looked_for": looked_for,
        "state": "waiting",
        "worker": None,
        "attempts": 0,
        "candidates": [],
        "steps": [],
        "steps_dropped": 0,
    }


def _row(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate; who will not do has no speed that mattered."""
    return {
        "peer": candidate.peer,
        "speed": round(candidate.speed, 3) or None,
        "basis": candidate.basis if candidate.speed else None,
        "fits": candidate.reason is None or candidate.is_last_resort,
        "reason": candidate.reason,
        "is_last_resort": candidate.is_last_resort,
    }
