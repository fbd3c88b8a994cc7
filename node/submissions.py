"""Jobs that clients wait for: several may wait for the same one, under the same job id.

A client that lost its connection submits again with the id that it chose, and finds the job where
it is. A job ends with its last client: nobody would take its result.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.audience import Audience
from node.job import JobResult, JobSpec
from node.submitted_job import Listener
from protocols.errors import CoveyError, JobFailed, Refused

log = logging.getLogger(__name__)

Reports = Callable[[Exception], Awaitable[object]]


class Submits(Protocol):
    """What runs the jobs: the submitter."""

    async def run(self, spec: JobSpec, listener: Listener) -> JobResult:
        """Have a job done."""
        ...


@dataclass(slots=True, eq=False)
class _Submission:
    spec: JobSpec
    audience: Audience
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    outcome: JobResult | CoveyError | None = None


class Submissions:
    """The jobs that clients of this node wait for; they run in ``nursery``, and what they do wrong
    goes to ``report`` instead of ending the node.
    """

    def __init__(self, submitter: Submits, report: Reports, nursery: trio.Nursery) -> None:
        self._submitter = submitter
        self._report = report
        self._nursery = nursery
        self._running: dict[bytes, _Submission] = {}

    async def run(self, spec: JobSpec, listener: Listener) -> JobResult:
        """Submit a job, or attach to it if it is submitted already, and return its result.

        Raises what ``Submitter.run`` raises, and ``Refused`` when another job has that id. The last
        client that is cancelled cancels the job. An output is seen growing only if the first client
        wants to see it.
        """
        submission = self._running.get(spec.job_id)
        if submission is None:
            audience = Audience(streams=listener.on_grown is not None)
            submission = self._running[spec.job_id] = _Submission(spec, audience)
            self._nursery.start_soon(self._carry, submission)
        elif submission.spec != spec:
            raise other_specification()
        submission.audience.join(listener)
        try:
            await submission.ended.wait()
        finally:
            submission.audience.leave(listener)
            if not submission.audience:
                submission.scope.cancel()
        if isinstance(submission.outcome, JobResult):
            return submission.outcome
        raise submission.outcome or JobFailed("the job was cancelled", code="cancelled")

    async def _carry(self, submission: _Submission) -> None:
        try:
            with submission.scope:
                listener = submission.audience.listener
                submission.outcome = await self._submitter.run(submission.spec, listener)
        except CoveyError as error:
            submission.outcome = error
        except Exception as error:  # the boundary of a job: nothing it does ends the node
            log.exception("submission failed", extra={"job": submission.spec.job_id.hex()})
            submission.outcome = CoveyError("this node failed at the job", code="node-fault")
            await self._report(error)
        finally:
            del self._running[submission.spec.job_id]
            submission.ended.set()


def other_specification() -> Refused:
    """Return the refusal of a job id that belongs to another job."""
    return Refused(
        "this job id is in use for another job",
        code="other-specification",
        hint="a job id stands for one kind, model and input: choose another",
    )
