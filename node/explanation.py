"""Why a job went where it went: who was considered, what each said, and every step on the way.

What was looked at is kept as it is while the job runs; sentences are made when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from node.placement import Candidate, JobNeeds
from protocols import job_history as history
from protocols.job_history import JobHistory, Step
from protocols.session import JobState
from protocols.submitter_job import SubmitterJob

MAX_KEPT: Final = 256  # candidates; in a mesh of thousands those that were asked are enough

_SENTENCES: Final = {
    history.OFFERED: "it did not answer before another was chosen",
    history.LEASED: "would have been done in {detail} ms; another was sooner, or was chosen first",
    history.REFUSED: "refused: {detail}",
    history.ACCEPTED: "accepted",
    history.RUNNING: "accepted; it ran the job",
    history.LOST: "lost: {detail}",
    history.FAILED: "failed: {detail}",
    history.DONE: "accepted; its result was taken",
}


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
        state = JobState.NEW.value
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
        last = self._last_steps()
        shown = sorted(self.considered, key=lambda each: (each.peer not in last, -each.speed))
        return {
            "job_id": self.job_id.hex(),
            "looked_for": str(self.needs),
            "state": self.state,
            "worker": self.worker,
            "attempts": self.attempts,
            "candidates": [_row(each, last.get(each.peer)) for each in shown],
            "steps": self.steps(),
            "steps_dropped": self.history.dropped,
        }

    def steps(self, first: int = 0) -> list[dict[str, Any]]:
        """Return what happened, from the step of that number on."""
        return [self._step(each) for each in self.history.steps[first:]]

    def _last_steps(self) -> dict[str, Step]:
        """Return the last step with each peer that was asked."""
        return {step.peer: step for step in self.history.steps}

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


def _row(candidate: Candidate, last: Step | None) -> dict[str, Any]:
    if last is not None:
        answer = _SENTENCES[last.what].format(detail=last.detail)
    else:
        answer = f"not asked: {candidate.reason or 'others came first'}"
    return {
        "peer": candidate.peer,
        "speed": round(candidate.speed, 3),
        "basis": candidate.basis,
        "fits": candidate.reason is None,
        "answer": answer,
    }
