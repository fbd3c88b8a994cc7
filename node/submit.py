"""The submitter: puts a job to workers and returns its one result.

The decisions are ``SubmitterJob``'s, and ``SubmittedJob`` carries them out. Here jobs are begun and
their results accepted. A result is returned only after the record of its acceptance is durable,
and acknowledged to its worker after that; so a crash in between repeats an acceptance of nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from node.accepted import Acceptance, AcceptedJobs
from node.benchmarks.stating import Stating
from node.earlier import NOTHING_BEFORE, Earlier
from node.explanation import Explanation
from node.explanations import Explanations
from node.hashing import cut, digest_of
from node.job import JobResult, JobSpec, check, failure_of, nobody
from node.ledger import Ended, JobLedger, Stopwatch
from node.link import SessionLink
from node.past_jobs import PastJobs
from node.placement import Candidate, Choice, Placement
from node.salts import Salts
from node.sessions import Sessions
from node.submission import Submission
from node.submitted_job import ROLE, Listener, Means, SubmittedJob
from node.verifier import Verifier
from peer.journal import JournalError
from protocols.cid import CID
from protocols.errors import CoveyError, Refused
from protocols.job import (
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    FromWorker,
    Lease,
    Refuse,
    Release,
    Renew,
    Terms,
)
from protocols.keys import PeerId
from protocols.limits import MAX_SUBMITTER_JOBS
from protocols.pieces import Outgoing
from protocols.session import JobState, Late, Send
from protocols.submitter_job import SubmitterJob

log = logging.getLogger(__name__)

OnTaken = Callable[[JobResult], Awaitable[None]]


NOBODY: Final = Listener(lambda _: None)
"""For clients that only wait."""


class Submitter:
    """Runs jobs for this node's clients. The sessions must run."""

    def __init__(
        self,
        placement: Placement,
        sessions: Sessions,
        ledger: JobLedger,
        salts: Salts,
        accepted: AcceptedJobs,
    ) -> None:
        self._placement = placement
        self._sessions = sessions
        self._ledger = ledger
        self._salts = salts
        self._accepted = accepted
        self._means = Means(sessions, placement, ledger)
        self._verifier = Verifier(self._run, placement, ledger)
        self._stating = Stating(sessions.own, placement, ledger)
        self._jobs: dict[bytes, SubmittedJob | None] = {}
        """Those under way; None as long as one is prepared."""
        self._is_draining = False
        self._ended = trio.Event()
        self._past = PastJobs()
        self._explanations = Explanations()
        sessions.subscribe(
            (Lease, Refuse, Renew, Chunk, Done, Failed), self._on_message, self._on_lost
        )

    async def run(
        self,
        spec: JobSpec,
        listener: Listener = NOBODY,
        on_taken: OnTaken | None = None,
        earlier: Earlier = NOTHING_BEFORE,
    ) -> JobResult:
        """Have a worker do this job and return its result, whose acceptance is durable then, with
        the verdict of others if the job is to be verified: the client sees both together.

        ``on_taken`` is awaited with the result before its acceptance: what it raises leaves the job
        without one, and its outcome with the worker. A job that was submitted before goes on from
        what is known of that: above its fences, and with fewer attempts. Cancelling cancels it.

        Raises ``InputError`` for a job that can't be, ``NoWorkerError`` when nobody takes it,
        ``Refused`` when the named peer does not or this node is busy, and ``JobFailed`` with the
        worker's reason, or with code ``expired`` or ``cancelled``.
        """
        began = trio.current_time()
        result = await self._run(spec, listener, on_taken, earlier)
        if not spec.verify:
            return result
        spent_ms = int((trio.current_time() - began) * 1_000)
        return await self.verified(replace(spec, budget_ms=spec.budget_ms - spent_ms), result)

    async def verified(self, spec: JobSpec, result: JobResult) -> JobResult:
        """Return an accepted result with the verdict of other peers on it; see
        ``Verifier.verify``.
        """
        verification = await self._verifier.verify(spec, result)
        return replace(result, verification=verification)

    async def _run(
        self,
        spec: JobSpec,
        listener: Listener = NOBODY,
        on_taken: OnTaken | None = None,
        earlier: Earlier = NOTHING_BEFORE,
    ) -> JobResult:
        check(spec)
        self._reserve(spec.job_id)
        try:
            needs = spec.needs
            choice = self._placement.choose(needs, trio.current_time(), self._sessions.crowded())
            considered = choice.considered
            watch = self._ledger.stopwatch()
            if not choice.peers:
                raise self._nobody(spec, considered, watch.began)
            terms, outgoing = await self._commit(spec)
            past = self._accepted.of(terms)
            submission = await self._record_submission(terms, watch)
            fence = max(self._past.resume(spec.job_id), past.fence if past else 0, earlier.fence)
            machine = self._machine(spec, terms, choice, replace(earlier, fence=fence))
            if earlier is NOTHING_BEFORE:
                self._placement.retries.earn()
            machine.input_digests = outgoing.digests
            explain = partial(Explanation.of, needs, considered, machine, watch.began)
            self._explanations.begin(spec.job_id, explain)
            try:
                await self._carry(machine, outgoing, listener)
            finally:
                self._explanations.end(spec.job_id)
                if machine.state is not JobState.DONE:
                    await self._write_end(machine, submission)
            if machine.state is not JobState.DONE:
                submission.check()
                raise failure_of(spec, machine, considered, len(earlier.losses))
            result = self._result_of(machine, submission)
            stated = await self._stating.of(spec, result)
            if on_taken is not None:
                await on_taken(result)
            accepted = await self._accept(machine, result, submission, past)
            return await self._stating.record(stated, accepted, submission.watch)
        finally:
            del self._jobs[spec.job_id]
            self._ended.set()

    def _nobody(
        self, spec: JobSpec, considered: list[Candidate], began: tuple[float, int]
    ) -> CoveyError:
        why = Explanation.of_nobody(spec.needs, considered, spec.job_id, began)
        self._explanations.add(spec.job_id, why)
        return nobody(spec, considered, self._placement.models())

    def _machine(self, spec: JobSpec, terms: Terms, choice: Choice, past: Earlier) -> SubmitterJob:
        """Return a job's machine, which goes on from what was before."""
        machine = SubmitterJob(
            terms,
            choice.peers,
            trio.current_time() + spec.budget_ms / 1_000,
            is_named=spec.peer is not None,
            last_resorts=choice.last_resorts,
            last_fence=past.fence,
        )
        machine.losses.extend(past.losses)
        machine.interrupted = past.attempts - len(past.losses)
        machine.may_retry = self._placement.retries.take
        return machine

    def explanation(self, job_id: bytes) -> Explanation | None:
        """Return why a job went where it went, if that is known; see ``Explanations``."""
        return self._explanations.get(job_id)

    def explained(self) -> list[bytes]:
        """Return the jobs that ``explanation`` knows."""
        return self._explanations.ids()

    def may_retry(self) -> bool:
        """Whether a job that its worker spoiled may be submitted once more now; it is counted."""
        return self._placement.retries.take(trio.current_time())

    def cancel(self, job_id: bytes) -> bool:
        """Cancel a job that is being submitted; its ``run`` raises. Tell whether there was one."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.cancel()
        return job is not None

    def asks(self, kind: str, peer: PeerId) -> bool:
        """Tell whether a job of this kind is under way from here that this peer was asked to do."""
        jobs = (job for job in self._jobs.values() if job is not None)
        return any(job.machine.terms.kind == kind and job.concerns(peer) for job in jobs)

    async def drain(self) -> None:
        """Refuse new jobs, and return when those at hand have ended."""
        self._is_draining = True
        while self._jobs:
            self._ended = trio.Event()
            await self._ended.wait()

    def _reserve(self, job_id: bytes) -> None:
        if self._is_draining:
            raise Refused("this node is stopping", code="draining")
        if job_id in self._jobs:
            raise Refused("this job is already being submitted", code="already-running")
        if len(self._jobs) >= MAX_SUBMITTER_JOBS:
            raise Refused(
                f"{MAX_SUBMITTER_JOBS} jobs are being submitted", code="busy", retry_after_ms=1_000
            )
        self._jobs[job_id] = None

    async def _record_submission(self, terms: Terms, watch: Stopwatch) -> Submission:
        refusals: list[JournalError] = []

        def refused(error: JournalError) -> None:
            """The disk takes nothing: end a job whose acceptance could not be kept either."""
            refusals.append(error)
            self.cancel(terms.job_id)

        return Submission(await self._ledger.submitted(terms, watch, refused), watch, refusals)

    async def _commit(self, spec: JobSpec) -> tuple[Terms, Outgoing]:
        """Choose the salts and commit to the input."""
        salt = self._salts.of_content(await digest_of(spec.input))
        outgoing = await cut(salt, spec.input)
        terms = Terms(
            job_id=spec.job_id,
            kind=spec.kind,
            model=spec.model,
            precision=spec.precision,
            items=spec.items,
            tokens=spec.tokens,
            size_bytes=len(spec.input),
            input_cid=bytes(outgoing.cid),
            input_salt=salt,
            output_salt=self._salts.of_output(spec.job_id),
            requirements=spec.requirements.facts(),
        )
        return terms, outgoing

    async def _carry(self, machine: SubmitterJob, outgoing: Outgoing, listener: Listener) -> None:
        """Carry the job to its end."""
        job_id = machine.terms.job_id
        job = self._jobs[job_id] = SubmittedJob(machine, outgoing, listener, self._means)
        try:
            await job.carry()
        finally:
            self._past.add(machine)

    async def _write_end(self, machine: SubmitterJob, submission: Submission) -> None:
        """Record that a job has no result, even if its client is gone; what this node was stopped
        under is not over.
        """
        failed = machine.failed
        status = machine.state.value
        if machine.state is JobState.CANCELLED and self._is_draining:
            status = "interrupted"
        end = Ended(
            machine.terms,
            submission.link,
            status,
            machine.attempts,
            failed.code if failed else "",
            failed.record_cid if failed else b"",
        )
        with trio.CancelScope(shield=True):
            try:
                await self._ledger.ended(end, submission.watch)
            except (CoveyError, OSError) as error:
                log.warning("end not recorded", extra={"error": str(error)})

    def _result_of(self, machine: SubmitterJob, submission: Submission) -> JobResult:
        """Return the result of a job that is DONE, not accepted yet."""
        done, worker, terms = machine.done, machine.worker, machine.terms
        assert done is not None, "a job that is DONE has a result"
        assert worker is not None, "a job that is DONE has a worker"
        return JobResult(
            job_id=terms.job_id,
            worker=worker,
            output=machine.output(),
            input_cid=CID(terms.input_cid),
            output_cid=CID(done.output_cid),
            record_cid=CID(done.record_cid),
            submitted_cid=submission.cid,
            accepted_cid=None,
            fence=done.fence,
            attempts=machine.attempts,
            timings={**done.timings, "total_ms": round(submission.watch.duration_us / 1_000, 3)},
            execution=dict(done.execution),
        )

    async def _accept(
        self,
        machine: SubmitterJob,
        result: JobResult,
        submission: Submission,
        past: Acceptance | None,
    ) -> JobResult:
        """Make the acceptance durable, then tell the worker. There is one acceptance of a job: what
        was accepted in the past and asked for again is recorded as repeated.
        """
        done, terms = machine.done, machine.terms
        assert done is not None, "a job that is DONE has a result"
        self._salts.keep(await digest_of(result.output), terms.output_salt)
        if past is not None:
            submission.check()
            await self._ledger.repeated(terms, past.cid, result.worker, done, submission.watch)
            accepted = past.cid
        else:
            accepted = await self._accept_once(terms, result, done, submission)
        self._acknowledge(machine)
        return replace(result, accepted_cid=accepted)

    async def _accept_once(
        self, terms: Terms, result: JobResult, done: Done, submission: Submission
    ) -> CID:
        taken = None
        with trio.CancelScope(shield=True):  # durable but not remembered, it could happen twice
            submission.check()
            cid = await self._ledger.accepted(
                terms, submission.cid, result.worker, done, submission.watch
            )
            taken = Acceptance(cid, done.fence, terms.kind, terms.model, terms.input_cid)
            self._accepted.add(terms.job_id, taken)
        assert taken is not None, "a shield swallows nothing"
        return taken.cid

    def _acknowledge(self, machine: SubmitterJob) -> None:
        for effect in machine.acknowledge():
            if isinstance(effect, Send) and (link := self._sessions.current(effect.peer)):
                link.send(effect.message)

    # Sessions

    def _on_message(self, link: SessionLink, message: FromWorker) -> None:
        if (job := self._jobs.get(message.job_id)) is None:
            return self._on_stray(link, message)
        if isinstance(message, Failed):
            self._ledger.failed_there(link.peer_id, message)
        return job.receive(link.peer_id, message)

    def _on_stray(self, link: SessionLink, message: FromWorker) -> None:
        """Free a worker that still holds something of a job that has ended here, or that we lost
        in a crash.
        """
        match message:
            case Lease():
                link.send(Release(message.job_id, message.fence))
            case Renew():
                link.send(Cancel(message.job_id, message.fence))
            case Done() if message.job_id not in self._jobs:
                link.send(Ack(message.job_id, message.fence))
                if self._past.is_recorded(link.peer_id, message):
                    late = Late(link.peer_id, message.fence, message.output_cid, message.record_cid)
                    self._sessions.start_soon(self._means.write, message.job_id, late)
            case Failed():
                link.send(Ack(message.job_id, message.fence))
                if self._past.is_recorded(link.peer_id, message):
                    self._ledger.failed_there(link.peer_id, message)
            case _:
                pass

    def _on_lost(self, link: SessionLink) -> None:
        for role, job_id in list(link.jobs):
            if role == ROLE and (job := self._jobs.get(job_id)) is not None:
                job.lost(link)
