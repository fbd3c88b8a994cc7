"""Every job as its worker sees it: leases given, inputs coming in, runs, and outcomes kept until
they are acknowledged.

A job is known by (submitter, job id). An offer for a known job with the same terms attaches to it,
whatever it is at; with other terms it is refused. The latest offer's fence is the only one that is
listened to. A submitter that goes away leaves its running jobs as orphans: they go on for
``ORPHAN_S``, so that it can come back for them, and so long wait inputs that had come in part.
Outcomes wait for ``OUTCOME_KEEP_S``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protocols.cid import DIGEST_BYTES
from protocols.errors import RemoteProtocolError
from protocols.job import (
    EXPIRED,
    LEASE_OVER,
    OTHER_SPECIFICATION,
    STALE_FENCE,
    WRONG_COMMITMENT,
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    FromSubmitter,
    Input,
    Lease,
    Offer,
    Refuse,
    Release,
    Renew,
    Terms,
)
from protocols.kept_outcomes import KeptOutcomes
from protocols.lease import LeaseClock
from protocols.limits import (
    LEASE_RENEW_S,
    LEASE_TTL_S,
    ORPHAN_S,
    OUTCOME_KEEP_S,
    PROGRESS_S,
    RUN_SILENCE_S,
)
from protocols.partial_inputs import PartialInputs
from protocols.pieces import NOTHING, Growing, Held, Incoming, Piece
from protocols.session import (
    Effect,
    JobEvent,
    JobKey,
    JobState,
    Send,
    Start,
    Stop,
)
from protocols.worker_job import NEVER, Granted, Load, Outcome, WorkerJob
from protocols.workload import Workload

LEASE_TTL_MS: Final = int(LEASE_TTL_S * 1_000)

Decide = Callable[[str, Offer, Load], Granted | Refuse]
"""Admission: whether to take an offer of that submitter, given what this worker has to do."""


class WorkerJobs:
    """The worker's machine: all its jobs, of all submitters.

    Every method returns effects to carry out in order. After ``Start``, the caller runs the job and
    says how it ended with ``finish`` or ``fail``; after ``Stop`` it need not. ``next_deadline``
    says when ``tick`` is due at the latest.
    """

    def __init__(self, decide: Decide, kept: KeptOutcomes | None = None) -> None:
        self._decide = decide
        self._jobs: dict[JobKey, WorkerJob] = {}
        self._kept = KeptOutcomes() if kept is None else kept
        self._partial = PartialInputs()
        self._workload = Workload()
        self._handlers: dict[type[Any], Callable[[WorkerJob, Any, float], list[Effect]]] = {
            Accept: self._on_accept,
            Input: self._on_input,
            Release: self._on_release,
            Cancel: self._on_cancel,
            Ack: self._on_ack,
        }

    def get(self, key: JobKey) -> WorkerJob | None:
        """Return a job, if it is known."""
        return self._jobs.get(key)

    @property
    def next_deadline(self) -> float:
        """When ``tick`` must be called if nothing else happens."""
        deadlines = (job.next_deadline for job in self._jobs.values())
        return min(self._partial.next_deadline, min(deadlines, default=NEVER))

    @property
    def unfinished(self) -> int:
        """How many jobs are leased or running."""
        return self._workload.jobs

    @property
    def kept_bytes(self) -> int:
        """What the kept outcomes hold."""
        return self._kept.size_bytes

    def receive(self, submitter: str, message: FromSubmitter, now: float) -> list[Effect]:
        """Take a message from a submitter."""
        job = self._jobs.get((submitter, message.job_id))
        if isinstance(message, Offer):
            return self._offered(job, submitter, message, now)
        if job is None or message.fence != job.fence:
            return self._on_unknown(job, submitter, message)
        return self._handlers[type(message)](job, message, now)

    def detach(self, key: JobKey, now: float) -> list[Effect]:
        """The session of this job's submitter is gone."""
        job = self._jobs.get(key)
        if job is None:
            return []
        if job.state is JobState.LEASED:
            if job.input.size_bytes:
                self._partial.keep(key, job.terms, job.input, now)
            return self._forget(job, JobEvent.EXPIRE)
        job.lease.end(now)
        if job.state is JobState.RUNNING:
            self._orphan(job, now)
        return []

    def finish(self, job: WorkerJob, outcome: Outcome, now: float) -> list[Effect]:
        """The run of ``job`` ended by itself; does nothing if the job was stopped meanwhile."""
        if job.state is not JobState.RUNNING:
            return []
        self._workload.remove(job)
        is_done = isinstance(outcome.message, Done)
        job.life.step(JobEvent.FINISH if is_done else JobEvent.FAIL)
        job.end(outcome, forget_at=now + OUTCOME_KEEP_S)
        self._kept.add(job.key, outcome.size_bytes)
        told = self._make_room(job.key, now)
        return [*told, job.deliver()] if job.lease.is_accepted else told

    def progressed(self, job: WorkerJob, done: int, total: int, now: float) -> list[Effect]:
        """The run of ``job`` came this far; its submitter is told every ``PROGRESS_S`` at most."""
        job.progress = (min(done, total), total)
        is_told = now < job.lease.renew_at - LEASE_RENEW_S + PROGRESS_S
        if is_told or job.state is not JobState.RUNNING or not job.lease.is_accepted:
            return []
        return self._renew(job, now)

    def emitted(self, job: WorkerJob, body: bytes, now: float) -> list[Effect]:
        """The run of ``job`` has come this much further with its output: it is sent at once to a
        submitter that wants to see it grow, and to whoever attaches to the job later.
        """
        if job.state is not JobState.RUNNING:
            return []
        if job.grown is None:
            job.grown = Growing(job.terms.output_salt)
        job.grown.add(body)
        return self._send_grown(job, now) if job.lease.is_accepted else []

    def tick(self, now: float) -> list[Effect]:
        """Act on what is due at ``now``: renewals, ended leases, orphans, old outcomes."""
        self._partial.drop_old(now)
        due = [job for job in self._jobs.values() if job.next_deadline <= now]
        return [effect for job in due for effect in self._tick_job(job, now)]

    # Offers

    def _offered(
        self, job: WorkerJob | None, submitter: str, offer: Offer, now: float
    ) -> list[Effect]:
        if job is None:
            return self._admit(submitter, offer, now)
        if Terms.of(offer) != job.terms:
            reason = "this job id is in use for another job"
            return self._refuse(submitter, offer, OTHER_SPECIFICATION, reason)
        if offer.fence < job.fence:
            return self._refuse(submitter, offer, STALE_FENCE, "a later attempt was offered")
        # One that counts fences from one again, after a crash, may come to the same; from its
        # acceptance on, an offer that is equal is the one that was accepted.
        if offer.fence > job.fence or not job.lease.is_accepted:
            self._reattach(job, offer, now)
        needs_input = job.state is JobState.LEASED
        return [Send(submitter, self._lease_of(job, now, needs_input=needs_input))]

    def _admit(self, submitter: str, offer: Offer, now: float) -> list[Effect]:
        decision = self._decide(submitter, offer, self._workload.load(submitter))
        if isinstance(decision, Refuse):
            return [Send(submitter, decision)]
        terms = Terms.of(offer)
        job = WorkerJob(
            submitter=submitter,
            terms=terms,
            fence=offer.fence,
            estimate_s=decision.estimate_s,
            deadline=now + offer.budget_ms / 1000,
            lease=LeaseClock(now),
            input=self._partial.take((submitter, offer.job_id), terms),
            progress=(0, terms.units),
            is_streamed=offer.stream,
            takes_output=offer.takes_output,
        )
        job.life.step(JobEvent.OFFER)
        job.life.step(JobEvent.LEASE)
        self._jobs[job.key] = job
        self._workload.add(job)
        if offer.input is not None:
            return self._run_at_once(job, offer.input, now)
        held = job.input.held
        lease = Lease(offer.job_id, offer.fence, decision.eta_ms, LEASE_TTL_MS, True, *held)
        return [Send(submitter, lease)]

    def _run_at_once(self, job: WorkerJob, content: bytes, now: float) -> list[Effect]:
        """The offer came with its input: it is accepted with it. The first sign of life can wait,
        for most of such jobs end before it is due.
        """
        job.lease.accept(now)
        if job.input.count:  # whatever came before
            job.input = Incoming(job.terms.input_salt, job.terms.size_bytes)
        effects = self._take_input(job, Piece(0, content, job.terms.input_cid[-DIGEST_BYTES:]), now)
        job.lease.renew_at = now + RUN_SILENCE_S
        return effects

    def _reattach(self, job: WorkerJob, offer: Offer, now: float) -> None:
        """Another attempt takes over what is here; until it is accepted, it gets nothing."""
        job.fence = offer.fence
        job.is_streamed, job.takes_output = offer.stream, offer.takes_output
        job.lease = LeaseClock(now)
        job.deadline = now + offer.budget_ms / 1000
        if job.state is JobState.LEASED:
            job.life.step(JobEvent.LOSE)
            job.life.step(JobEvent.LEASE)
        elif job.state is JobState.RUNNING:
            self._orphan(job, now)

    def _lease_of(self, job: WorkerJob, now: float, *, needs_input: bool = True) -> Lease:
        eta_s = 0.0 if job.state.is_final else min(job.estimate_s, max(0.0, job.deadline - now))
        eta_ms, held = int(eta_s * 1000), job.input.held if needs_input else NOTHING
        return Lease(job.terms.job_id, job.fence, eta_ms, LEASE_TTL_MS, needs_input, *held)

    def _refuse(
        self, submitter: str, message: FromSubmitter, code: str, reason: str
    ) -> list[Effect]:
        job = self._jobs.get((submitter, message.job_id))
        seen_fence = job.fence if job and code == STALE_FENCE else 0
        refuse = Refuse(message.job_id, message.fence, code, reason, seen_fence=seen_fence)
        return [Send(submitter, refuse)]

    # What follows a lease

    def _on_unknown(
        self, job: WorkerJob | None, submitter: str, message: FromSubmitter
    ) -> list[Effect]:
        """A job or fence that is past, or never was: only an acceptance needs an answer."""
        if not isinstance(message, Accept):
            return []
        if job is None:
            return self._refuse(submitter, message, LEASE_OVER, "its lease is over")
        return self._refuse(submitter, message, STALE_FENCE, "another attempt was offered")

    def _on_accept(self, job: WorkerJob, accept: Accept, now: float) -> list[Effect]:
        if job.lease.is_accepted:
            return []
        job.lease.accept(now)
        job.orphan_at = NEVER
        job.go_on(Held(accept.held_pieces, accept.held_digest))
        if job.state.is_final:
            return [job.deliver()]
        return self._send_grown(job, now)

    def _send_grown(self, job: WorkerJob, now: float) -> list[Effect]:
        """Send what has come of the output and was not sent under this fence."""
        if job.grown is None or not job.is_streamed or len(job.grown) == job.pieces_sent:
            return []
        pieces = list(job.grown.pieces(job.pieces_sent))
        job.pieces_sent = len(job.grown)
        job.lease.renew(now)  # a piece is a sign of life
        job_id, fence = job.terms.job_id, job.fence
        return [
            Send(job.submitter, Chunk(job_id, fence, each.index, each.body, each.digest))
            for each in pieces
        ]

    def _on_input(self, job: WorkerJob, message: Input, now: float) -> list[Effect]:
        if job.state is not JobState.LEASED or not job.lease.is_accepted:
            return []
        piece = Piece(message.index, message.body, message.digest)
        effects = self._take_input(job, piece, now)
        has_started = any(isinstance(effect, Start) for effect in effects)
        return effects + self._renew(job, now) if has_started else effects

    def _take_input(self, job: WorkerJob, piece: Piece, now: float) -> list[Effect]:
        """Take a piece of the input, and start the job with its last one."""
        try:
            job.input.add(piece)
        except RemoteProtocolError as error:
            return self._reject_input(job, str(error))
        job.lease.ends_at = now + LEASE_TTL_S
        if not job.input.holds(job.terms.size_bytes):
            return []
        if job.input.cid != job.terms.input_cid:
            return self._reject_input(job, "the input is not the one that was committed to")
        job.life.step(JobEvent.START)
        self._workload.begin(job)
        return [Start(job.key)]

    def _reject_input(self, job: WorkerJob, reason: str) -> list[Effect]:
        refuse = Refuse(job.terms.job_id, job.fence, WRONG_COMMITMENT, reason[:200])
        return [Send(job.submitter, refuse), *self._forget(job, JobEvent.FAIL)]

    def _on_release(self, job: WorkerJob, _: Release, now: float) -> list[Effect]:
        if job.state is JobState.LEASED and not job.lease.is_accepted:
            return self._forget(job, JobEvent.CANCEL)
        return []

    def _on_cancel(self, job: WorkerJob, _: Cancel, now: float) -> list[Effect]:
        return self._forget(job, JobEvent.CANCEL)

    def _on_ack(self, job: WorkerJob, _: Ack, now: float) -> list[Effect]:
        return self._forget(job, JobEvent.CANCEL) if job.state.is_final else []

    # Time

    def _tick_job(self, job: WorkerJob, now: float) -> list[Effect]:
        if job.state.is_final:
            return self._give_up(job)
        if now >= job.deadline:
            return self._expire(job)
        if job.state is JobState.LEASED and job.lease.is_over(now):
            return self._lapse(job)
        if now >= job.orphan_at:
            return self._forget(job, JobEvent.CANCEL)
        return self._renew(job, now) if job.lease.is_due(now) else []

    def _expire(self, job: WorkerJob) -> list[Effect]:
        failed = Failed(job.terms.job_id, job.fence, EXPIRED, "its time ran out", False)
        told: list[Effect] = [Send(job.submitter, failed)] if job.lease.is_accepted else []
        return [*told, *self._forget(job, JobEvent.EXPIRE)]

    def _lapse(self, job: WorkerJob) -> list[Effect]:
        """Nobody accepted, or the input stopped coming."""
        if not job.lease.is_accepted:
            return self._forget(job, JobEvent.EXPIRE)
        refuse = Refuse(job.terms.job_id, job.fence, LEASE_OVER, "its input stopped coming")
        return [Send(job.submitter, refuse), *self._forget(job, JobEvent.EXPIRE)]

    def _renew(self, job: WorkerJob, now: float) -> list[Effect]:
        if job.state is JobState.RUNNING:
            job.lease.renew(now)
        else:
            # The input comes in: we owe signs of life, but without pieces the lease here ends.
            job.lease.renew_at = now + LEASE_RENEW_S
        done, total = job.progress
        return [Send(job.submitter, Renew(job.terms.job_id, job.fence, done, total))]

    def _orphan(self, job: WorkerJob, now: float) -> None:
        job.lease.is_accepted = False
        job.orphan_at = now + ORPHAN_S

    def _make_room(self, newest: JobKey, now: float) -> list[Effect]:
        """Give up outcomes that are too many."""
        dropped = self._kept.overflow(newest, lambda key: self._jobs[key].is_wanted(now))
        return [effect for key in dropped for effect in self._give_up(self._jobs[key])]

    def _give_up(self, job: WorkerJob) -> list[Effect]:
        """Drop an outcome. Who waits for it is told and goes elsewhere at once; who comes later
        hears that the lease is over, or offers the job anew.
        """
        told: list[Effect] = [Send(job.submitter, job.given_up())] if job.lease.is_accepted else []
        return [*told, *self._forget(job, JobEvent.CANCEL)]

    def _forget(self, job: WorkerJob, event: JobEvent) -> list[Effect]:
        """Drop a job, and its outcome or run with it."""
        del self._jobs[job.key]
        if job.state.is_final:
            self._kept.remove(job.key)
            return []
        self._workload.remove(job)
        is_running = job.state is JobState.RUNNING
        job.life.step(event)
        return [Stop(job.key)] if is_running else []
