"""The worker: takes offers, runs jobs in runners, writes down what happened, and keeps outcomes
until they are acknowledged.

The decisions are ``WorkerJobs``' and ``Admission``'s. Here their effects are carried out. What one
job does wrong ends that job only: ``_attempt`` is that boundary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from node.admission import Admission, Models, resolve_precision
from node.benchmarks.runners import BenchOutcome
from node.benchmarks.statement import MEASURED
from node.benchmarks.stating import measured
from node.hashing import cut
from node.ledger import Attempt, JobLedger
from node.link import SessionLink
from node.outputs import Outputs
from node.run_request import RunRequest
from node.runner_job import RunOutcome
from node.sessions import Sessions
from node.worker_fault import code_of, is_worker_fault
from protocols.cid import CID
from protocols.errors import CoveyError, JobFailed
from protocols.job import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    FromSubmitter,
    Input,
    Offer,
    Release,
    facts_of,
    timings_of,
)
from protocols.keys import PeerId
from protocols.limits import (
    DRAIN_S,
    MAX_JOB_OUTPUT_BYTES,
    MAX_REASON_CHARS,
)
from protocols.pieces import Outgoing
from protocols.session import Deliver, Effect, JobKey, Send, Start, Stop
from protocols.worker_job import Outcome, WorkerJob
from protocols.worker_jobs import WorkerJobs

log = logging.getLogger(__name__)

ROLE: Final = "worker"


class Runners(Protocol):
    """What a worker asks of what computes its jobs."""

    async def run(
        self,
        request: RunRequest,
        on_progress: Callable[[int, int], None],
        on_piece: Callable[[bytes], None],
    ) -> RunOutcome:
        """Run one job; raise ``JobFailed`` or another ``CoveyError`` when it fails. Cancelling
        stops it. ``on_piece`` is told what comes of an output while it comes into being, if the
        kind has such; the output begins with all of that.
        """
        ...


@dataclass(slots=True, eq=False)
class _Running:
    """A run under way."""

    job: WorkerJob
    scope: trio.CancelScope


class Worker:
    """Does jobs for submitters of the mesh. The sessions must run."""

    def __init__(
        self,
        sessions: Sessions,
        admission: Admission,
        models: Models,
        runners: Runners,
        ledger: JobLedger,
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._models = models
        self._runners = runners
        self._ledger = ledger
        self._jobs = WorkerJobs(admission.decide)
        self._links: dict[JobKey, SessionLink] = {}
        self._running: dict[JobKey, _Running] = {}
        self._outputs = Outputs(self._jobs, self._output_ended)
        self._nursery: trio.Nursery | None = None
        self._woken = trio.Event()
        self._ticks_at = 0.0
        self._idle = trio.Event()
        sessions.subscribe(
            (Offer, Accept, Input, Release, Cancel, Ack), self._on_message, self._on_lost
        )

    @property
    def unfinished(self) -> int:
        """How many jobs are leased or running here."""
        return self._jobs.unfinished

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; jobs that run then are abandoned, and go elsewhere. ``drain``
        before spares them that.
        """
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            try:
                while True:
                    await self._next_tick()
            finally:
                self._nursery = None  # before it closes: submitters' messages come until later

    async def _next_tick(self) -> None:
        self._woken = trio.Event()
        self._ticks_at = self._jobs.next_deadline
        with trio.move_on_at(self._ticks_at):
            await self._woken.wait()
        self._perform(self._jobs.tick(trio.current_time()))
        for key in list(self._links):
            self._tidy(key)

    async def drain(self) -> None:
        """Refuse new jobs, and wait at most ``DRAIN_S`` until those at hand are done and their
        outcomes on the way.
        """
        self._admission.is_draining = True
        with trio.move_on_after(DRAIN_S):
            while self._is_busy:
                self._idle = trio.Event()
                await self._idle.wait()
            await self._sessions.flush()

    # Sessions

    def _on_message(self, link: SessionLink, message: FromSubmitter) -> None:
        if self._nursery is None:
            return  # not a worker yet: the submitter hears nothing and asks others
        key = (link.peer_id, message.job_id)
        now = trio.current_time()
        if isinstance(message, Offer):
            self._bind(key, link, now)
        elif self._links.get(key, link) is not link and not isinstance(message, Ack):
            return  # of a session that this job has left; an outcome is durable on whichever
        self._perform(self._jobs.receive(link.peer_id, message, now), link)
        self._tidy(key)

    def _on_lost(self, link: SessionLink) -> None:
        for role, job_id in list(link.jobs):
            key = (link.peer_id, job_id)
            if role == ROLE and self._links.get(key) is link:
                self._detach(key, trio.current_time())
                self._tidy(key)

    def _bind(self, key: JobKey, link: SessionLink, now: float) -> None:
        known = self._links.get(key)
        if known is link:
            return
        job = self._jobs.get(key)
        # Its submitter came back before we noticed that it was gone, or after all was sent to it
        if known is not None or (job is not None and job.state.is_final):
            self._detach(key, now)
        self._links[key] = link
        link.jobs.add((ROLE, key[1]))

    def _detach(self, key: JobKey, now: float) -> None:
        self._perform(self._jobs.detach(key, now))
        self._unbind(key)
        self._woken.set()  # what it left here in part is dropped in time, though no job is due

    def _unbind(self, key: JobKey) -> None:
        self._outputs.forget(key)
        if link := self._links.pop(key, None):
            link.jobs.discard((ROLE, key[1]))

    def _tidy(self, key: JobKey) -> None:
        """After something happened to a job: let go of its session if it is no more, be woken when
        it is due, and tell ``drain`` of the last one.
        """
        job = self._jobs.get(key)
        if job is None:
            self._unbind(key)
        elif job.next_deadline < self._ticks_at:
            self._woken.set()
        if self._admission.is_draining and not self._is_busy:
            self._idle.set()

    @property
    def _is_busy(self) -> bool:
        return bool(self._jobs.unfinished or self._running or self._outputs.sending)

    # Effects

    def _perform(self, effects: list[Effect], answer_to: SessionLink | None = None) -> None:
        """Carry out effects; what concerns a job without a session is sent to ``answer_to``."""
        for effect in effects:
            match effect:
                case Send():
                    link = self._links.get((effect.peer, effect.message.job_id), answer_to)
                    if isinstance(effect.message, Chunk):
                        self._go_on(effect.peer, effect.message)
                    elif link is not None:
                        link.send(effect.message)
                case Start():
                    self._start(effect.key)
                case Stop():
                    if running := self._running.get(effect.key):
                        running.scope.cancel()
                case Deliver():
                    self._deliver(effect)
                case _:
                    raise AssertionError("the others are a submitter's")

    def _start(self, key: JobKey) -> None:
        job = self._jobs.get(key)
        assert job is not None, "a job that starts is known"
        assert self._nursery is not None, "only a worker that runs takes messages"
        running = self._running[key] = _Running(job, trio.CancelScope())
        self._nursery.start_soon(self._run_job, running)

    def _go_on(self, submitter: PeerId, chunk: Chunk) -> None:
        """Send a growing output as far as this piece."""
        key = (submitter, chunk.job_id)
        job, link = self._jobs.get(key), self._links.get(key)
        if job is not None and link is not None and self._nursery is not None:
            self._outputs.go_on(self._nursery, job, link, chunk.index)

    def _deliver(self, effect: Deliver) -> None:
        """Send a kept outcome: its output in pieces, then what ends the job, in this order."""
        job, link = self._jobs.get(effect.key), self._links.get(effect.key)
        if job is None or job.outcome is None or link is None:
            return
        outcome = job.outcome
        is_small = outcome.output is None or outcome.output.is_inline
        if not is_small or self._outputs.has(job, link):
            if self._nursery is not None:  # else nobody is left to send it, and it goes elsewhere
                self._outputs.end(self._nursery, job, link, effect.first_piece)
            return
        output = None if job.takes_output else outcome.output
        for p in output.pieces(effect.first_piece) if output else ():
            link.send(Chunk(effect.key[1], effect.fence, p.index, p.body, p.digest))
        link.send(outcome.final_message(effect.fence, has_output=job.takes_output))
        self._unbind(effect.key)  # who acknowledges nothing holds no session

    def _output_ended(self, job: WorkerJob, is_sent: bool) -> None:
        if is_sent and self._jobs.get(job.key) is job:
            self._unbind(job.key)
        self._tidy(job.key)

    # Runs

    async def _run_job(self, running: _Running) -> None:
        """Run one job from its input to its kept outcome."""
        job = running.job
        terms, watch = job.terms, self._ledger.stopwatch()
        attempt = Attempt(terms, job.fence, job.submitter, watch)
        with running.scope:
            outcome = await self._attempt(job, attempt)
            self._perform(self._jobs.finish(job, outcome, trio.current_time()))
        if running.scope.cancelled_caught:
            await self._record_stop(attempt, job.state.value)
        if self._running.get(job.key) is running:
            del self._running[job.key]
        self._tidy(job.key)

    async def _attempt(self, job: WorkerJob, attempt: Attempt) -> Outcome:
        """The job boundary: whatever goes wrong in a run becomes a failed outcome, with one
        report where it is a fault.
        """
        try:
            model = self._models.get(job.terms.model)
            precision = resolve_precision(model, job.terms.precision)
            attempt = replace(attempt, model_cid=model.cid, precision=precision)
            request = _request(job, precision)
            run = await self._runners.run(request, self._follow(job), self._pass_on(job))
            return await self._succeed(job, attempt, run)
        except Exception as error:  # noqa: BLE001 - the job boundary
            return await self._fail(attempt, error)

    async def _succeed(self, job: WorkerJob, attempt: Attempt, run: RunOutcome) -> Outcome:
        """Commit to the output and record the run; only then may anybody hear of it."""
        if len(run.output) > MAX_JOB_OUTPUT_BYTES:
            raise JobFailed(
                f"the output has {len(run.output)} bytes, over the limit of {MAX_JOB_OUTPUT_BYTES}",
                code="output-too-big",
            )
        terms = attempt.terms
        output = await _output_of(job, run.output)
        execution = {"precision": attempt.precision, **run.execution}
        record = await self._ledger.ran(attempt, output.cid, execution)
        if isinstance(run, BenchOutcome):
            stated = measured(attempt, run, execution, self._sessions.own)
            await self._ledger.benchmark(MEASURED, stated, output.cid, [record], attempt.watch)
        done = Done(
            job_id=terms.job_id,
            fence=attempt.fence,
            output_cid=bytes(output.cid),
            size_bytes=len(run.output),
            record_cid=bytes(record),
            timings=timings_of(run.timings),
            execution=facts_of(execution),
            output=output.content if job.takes_output and output.is_inline else None,
        )
        return Outcome(done, output)

    async def _fail(self, attempt: Attempt, error: Exception) -> Outcome:
        """Record the failed run and report it, once, even if the job is cancelled meanwhile."""
        record: CID | None = None
        report: CID | None = None
        with trio.CancelScope(shield=True):
            record = await self._record_stop(attempt, "failed")
            report = await self._ledger.failed(attempt, error, record)
        code = code_of(error)
        failed = Failed(
            job_id=attempt.terms.job_id,
            fence=attempt.fence,
            code=code,
            reason=(str(error) or type(error).__name__)[:MAX_REASON_CHARS],
            is_worker_fault=is_worker_fault(code),
            record_cid=bytes(record or b""),
            report_cid=bytes(report or b""),
        )
        return Outcome(failed)

    async def _record_stop(self, attempt: Attempt, status: str) -> CID | None:
        """Record a run without an output; a journal that takes nothing must not end the worker."""
        try:
            return await self._ledger.stopped(attempt, status)
        except (CoveyError, OSError) as error:
            log.warning("run not recorded", extra={"error": str(error), "status": status})
            return None

    def _pass_on(self, job: WorkerJob) -> Callable[[bytes], None]:
        def on_piece(body: bytes) -> None:
            self._perform(self._jobs.emitted(job, body, trio.current_time()))

        return on_piece

    def _follow(self, job: WorkerJob) -> Callable[[int, int], None]:
        def on_progress(done: int, total: int) -> None:
            now = trio.current_time()
            self._perform(self._jobs.progressed(job, done, total, now))

        return on_progress


async def _output_of(job: WorkerJob, content: bytes) -> Outgoing:
    """Return an output ready to be sent, behind what was sent of it already."""
    if job.grown is None:
        return await cut(job.terms.output_salt, content)
    whole = job.grown.complete(content)
    if whole is None:
        raise JobFailed("the output does not begin as what came of it", code="runner-inconsistent")
    return whole


def _request(job: WorkerJob, precision: str) -> RunRequest:
    terms = job.terms
    return RunRequest(
        model=terms.model,
        kind=terms.kind,
        precision=precision,
        input=job.take_input(),
        units=terms.units,
        submitter=job.submitter,
    )
