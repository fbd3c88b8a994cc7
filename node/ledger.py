"""What a node writes down about jobs: one place where the records of both roles are made.

Every method returns when its record is durable, and raises ``JournalError`` when the disk takes no
more. Nothing here holds an input or an output, only
their commitments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from node.benchmarks.statement import VERDICT, Statement
from node.runner.kinds import BadInputError
from node.runner.kinds.generate import TOO_LONG
from peer.capture import About, Origin, report_of
from peer.effects import Effects
from peer.own_feed import OnRefused
from peer.recorder import Recorder
from protocols.cid import CID
from protocols.errors import CoveyError, JobFailed
from protocols.job import Done, Failed, Terms
from protocols.keys import PeerId
from protocols.session import Late, Lost

MISTAKES: Final = frozenset({BadInputError.default_code, TOO_LONG})
"""Codes of errors in what a job was given: on record as its outcome, and no software's fault."""

if TYPE_CHECKING:
    from node.job import JobResult, JobSpec
    from node.verdict import Run, Verification


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """When something began: by the wall clock for the record, by the monotonic one for
    durations.
    """

    start_us: int
    started_at: float

    @property
    def began(self) -> tuple[float, int]:
        """The same moment by both clocks: the monotonic one's and the wall clock's."""
        return self.started_at, self.start_us

    @property
    def duration_us(self) -> int:
        """How long ago that is."""
        return int((trio.current_time() - self.started_at) * 1e6)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job on this worker: what is common to its record and its report."""

    terms: Terms
    fence: int
    submitter: PeerId
    watch: Stopwatch
    model_cid: CID | None = None
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended at its submitter without a result; ``submitted`` is missing when the disk
    did not take it, ``record_cid`` is the run's that failed, if there is one.
    """

    terms: Terms
    submitted: CID | None
    status: str
    attempts: int
    code: str = ""
    record_cid: bytes = b""


OnNamed = Callable[[PeerId, CID], None]
"""Takes the worker and its record."""


def _ignore(_worker: PeerId, _record: CID) -> None:
    pass


class JobLedger:
    """Writes the records and reports of jobs."""

    def __init__(self, recorder: Recorder, origin: Origin, effects: Effects) -> None:
        self.on_named: OnNamed = _ignore
        """Is told of every record of a worker about a job of ours that this node hears of."""
        self._recorder = recorder
        self._origin = origin
        self.effects = effects

    def stopwatch(self) -> Stopwatch:
        """Return a watch that starts now."""
        return Stopwatch(self.effects.now_us(), trio.current_time())

    async def submitted(self, terms: Terms, watch: Stopwatch, refused: OnRefused) -> CID:
        """The submitter is about to offer this job. Returns at once: what matters is that this is
        on the disk when the job's acceptance is; ``refused`` is told if it can't be.
        """
        return await self._recorder.activity(
            "job.submitted",
            generated=[(CID(terms.input_cid), "input")],
            start_us=watch.start_us,
            duration_us=0,
            attributes={"job_id": terms.job_id, "kind": terms.kind, "model": terms.model},
            refused=refused,
        )

    async def accepted(
        self, terms: Terms, submitted: CID, worker: PeerId, done: Done, watch: Stopwatch
    ) -> CID:
        """The submitter took this result; from now on it takes no other."""
        self.on_named(worker, CID(done.record_cid))
        return await self._recorder.activity(
            "job.accepted",
            used=[(CID(done.output_cid), "output")],
            informed_by=[submitted, CID(done.record_cid)],
            start_us=watch.start_us,
            duration_us=watch.duration_us,
            attributes=_taken(terms, done, worker),
        )

    async def repeated(
        self, terms: Terms, accepted: CID, worker: PeerId, done: Done, watch: Stopwatch
    ) -> CID:
        """The submitter had this job done again for a client that came back after its acceptance,
        which stands.
        """
        self.on_named(worker, CID(done.record_cid))
        return await self._recorder.activity(
            "job.repeated",
            used=[(CID(done.output_cid), "output")],
            informed_by=[accepted, CID(done.record_cid)],
            start_us=watch.start_us,
            duration_us=watch.duration_us,
            attributes=_taken(terms, done, worker),
        )

    async def verified(
        self,
        spec: JobSpec,
        result: JobResult,
        runs: Sequence[Run],
        verification: Verification,
        watch: Stopwatch,
    ) -> CID:
        """Other peers ran an accepted job again; ``runs`` are all whose outputs were compared, the
        accepted one first.
        """
        accepted = [result.accepted_cid] if result.accepted_cid else []
        told = verification.told()
        for run in runs[1:]:
            self.on_named(run.peer, run.record_cid)
        return await self._recorder.activity(
            "job.verified",
            used=[(run.output_cid, "output") for run in runs],
            informed_by=[*accepted, *(run.record_cid for run in runs[1:])],
            start_us=watch.start_us,
            duration_us=watch.duration_us,
            status="ok",
            attributes={
                "job_id": spec.job_id,
                "kind": spec.kind,
                "model": spec.model,
                "worker": result.worker,
                "profile": dict(runs[0].profile),
                "peers": [each.record() for each in verification.peers],
                **{name: told[name] for name in _VERDICT},
            },
        )

    async def late(self, job_id: bytes, late: Late) -> CID:
        """A result came under a fence that is past, and was not taken."""
        self.on_named(late.peer, CID(late.record_cid))
        return await self._recorder.activity(
            "job.late",
            used=[(CID(late.output_cid), "output")],
            informed_by=[CID(late.record_cid)],
            start_us=self.effects.now_us(),
            duration_us=0,
            attributes={"job_id": job_id, "fence": late.fence, "worker": late.peer},
        )

    async def lost(self, job_id: bytes, lost: Lost) -> CID:
        """The submitter gave an attempt up: its worker, session or lease was lost."""
        return await self._recorder.activity(
            "job.lost",
            start_us=self.effects.now_us(),
            duration_us=0,
            status="failed",
            attributes={
                "job_id": job_id,
                "fence": lost.fence,
                "worker": lost.peer,
                "reason": lost.why,
            },
        )

    async def ended(self, end: Ended, watch: Stopwatch) -> CID:
        """The submitter's job ended without a result."""
        informed_by = [end.submitted] if end.submitted else []
        if end.record_cid:
            informed_by.append(CID(end.record_cid))
        return await self._recorder.activity(
            "job.ended",
            informed_by=informed_by,
            start_us=watch.start_us,
            duration_us=watch.duration_us,
            status=end.status,
            attributes={
                "job_id": end.terms.job_id,
                "kind": end.terms.kind,
                "model": end.terms.model,
                "attempts": end.attempts,
                "code": end.code,
            },
        )

    async def ran(self, attempt: Attempt, output_cid: CID, execution: Mapping[str, Any]) -> CID:
        """The worker ran this job to its end."""
        return await self._run_record(attempt, "ok", [(output_cid, "output")], execution)

    def failed_there(self, worker: PeerId, failed: Failed) -> None:
        """A run failed at a worker, which recorded it and reported why: both are named, whether a
        record of ours will name them or not.
        """
        for cid in filter(None, (failed.record_cid, failed.report_cid)):
            self.on_named(worker, CID(cid))

    async def stopped(self, attempt: Attempt, status: str) -> CID:
        """The worker's run ended without an output: ``failed``, ``cancelled`` or ``expired``."""
        return await self._run_record(attempt, status, [], {})

    async def failed(self, attempt: Attempt, error: Exception, record: CID | None) -> CID | None:
        """Report why a run failed, once; ``record`` is the run's, if it could be written."""
        about = About(
            job_id=attempt.terms.job_id.hex(),
            job_cid=str(record) if record else "",
            model=attempt.terms.model,
        )
        return await self.report(error, about, informed_by=(record,) if record else ())

    async def benchmark(
        self,
        kind: str,
        statement: Statement,
        output_cid: CID,
        informed_by: Sequence[CID],
        watch: Stopwatch,
    ) -> CID:
        """State openly what a benchmark found, as its worker or as its submitter."""
        return await self._recorder.activity(
            kind,
            used=[(output_cid, "output")],
            informed_by=informed_by,
            start_us=watch.start_us,
            duration_us=watch.duration_us,
            attributes=statement.attributes(),
        )

    async def judged(self, before: CID, after: CID, verdict: Mapping[str, Any]) -> CID:
        """State whether a repeated benchmark came out as before."""
        return await self._recorder.activity(
            VERDICT,
            informed_by=[before, after],
            start_us=self.effects.now_us(),
            duration_us=0,
            status="ok" if verdict["is_passed"] else "failed",
            attributes=verdict,
        )

    async def report(
        self, error: Exception, about: About | None = None, *, informed_by: tuple[CID, ...] = ()
    ) -> CID | None:
        """Report a fault; never raises on faults of its own. What only a user can mend is none, and
        is not reported: everything that this node reports about jobs comes through here.
        """
        if isinstance(error, CoveyError) and error.code in MISTAKES:
            return None
        told = error.exceptions if isinstance(error, JobFailed) else ()
        now_us = self.effects.now_us()
        report = report_of(told or error, self._origin, time_us=now_us, about=about or About())
        return await self._recorder.report(report, informed_by=informed_by)

    async def _run_record(
        self,
        attempt: Attempt,
        status: str,
        generated: list[tuple[CID, str]],
        execution: Mapping[str, Any],
    ) -> CID:
        terms = attempt.terms
        model = [(attempt.model_cid, "model")] if attempt.model_cid else []
        return await self._recorder.activity(
            "job.run",
            used=[*model, (CID(terms.input_cid), "input")],
            generated=generated,
            start_us=attempt.watch.start_us,
            duration_us=attempt.watch.duration_us,
            status=status,
            attributes={
                "precision": attempt.precision or terms.precision,
                **execution,
                "job_id": terms.job_id,
                "fence": attempt.fence,
                "kind": terms.kind,
                "model": terms.model,
                "items": terms.items,
                "submitter": attempt.submitter,
            },
        )


_VERDICT: Final = ("verdict", "tolerance", "wanted", "outvoted", "disputed", "reason")


def _taken(terms: Terms, done: Done, worker: PeerId) -> dict[str, Any]:
    return {
        "job_id": terms.job_id,
        "fence": done.fence,
        "worker": worker,
        "kind": terms.kind,
        "model": terms.model,
        "input": CID(terms.input_cid),
    }
