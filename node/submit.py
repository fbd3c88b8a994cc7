"""The submitter: puts a job to workers and returns its one result.

The decisions are ``SubmitterJob``'s. Here its effects are carried out: sessions opened, inputs
streamed, records written. A result is returned only after the record of its acceptance is durable,
and acknowledged to its worker after that; so a crash in between repeats an acceptance of nothing.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Final

import trio

from node.accepted import Acceptance, AcceptedJobs
from node.explanation import Explanation
from node.hashing import cut, digest_of
from node.job import JobResult, JobSpec, Progress, check, failure_of, nobody
from node.ledger import Ended, JobLedger, Stopwatch
from node.link import SessionLink
from node.placement import Placement
from node.salts import Salts
from node.sessions import SESSIONS_FULL, Sessions, why
from node.submissions import other_specification
from protocols.cid import CID
from protocols.errors import CoveyError, PeerUnreachableError, Refused, TransportError
from protocols.job import (
    BUSY,
    Ack,
    Cancel,
    Chunk,
    Done,
    Failed,
    FromWorker,
    Input,
    Lease,
    Offer,
    Refuse,
    Release,
    Renew,
    Terms,
)
from protocols.keys import PeerId
from protocols.limits import MAX_STRAY_RESULTS, MAX_SUBMITTER_JOBS, PROGRESS_S
from protocols.pieces import Outgoing
from protocols.session import Effect, JobState, Late, Lost, Send, SendInput, Violation
from protocols.signs import Sign
from protocols.submitter_job import SubmitterJob

ROLE: Final = "submitter"
MAX_EXPLANATIONS: Final = 256  # people ask about the job that they have just seen
SESSIONS_FULL_RETRY_MS: Final = 250  # a session is idle again once its job has its result

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]
OnTaken = Callable[[JobResult], Awaitable[None]]
Note = Violation | Late | Lost
"""What a machine wants written down."""


@dataclass(slots=True, eq=False)
class _Run:
    """One job being submitted."""

    machine: SubmitterJob
    input: Outgoing
    on_progress: OnProgress
    nursery: trio.Nursery | None = None
    """Where ``beside`` runs; most jobs need none, and opening one is an eighth of their cost."""
    beside: list[Callable[[], Awaitable[None]]] = field(
        default_factory=list[Callable[[], Awaitable[None]]]
    )
    """What is to be done beside waiting: sessions to open, large inputs to send."""
    links: dict[PeerId, SessionLink] = field(default_factory=dict[PeerId, SessionLink])
    notes: deque[Note] = field(default_factory=deque[Violation | Late | Lost])
    changed: trio.Event = field(default_factory=trio.Event)
    wakes_at: float = 0.0
    told: Progress | None = None

    @property
    def progress(self) -> Progress:
        machine = self.machine
        return Progress(machine.state, machine.worker, *machine.progress, machine.attempts)

    def tell(self) -> None:
        """Tell the client what is new."""
        progress = self.progress
        if self.told != progress:
            self.told = progress
            self.on_progress(progress)

    def wake(self) -> None:
        """Tell of a new state at once, for that is no reason to wake the job's own task; wake it if
        there is something for it to do. Items done are told every ``PROGRESS_S``.
        """
        told, machine = self.told, self.machine
        state = machine.state
        if told is not None and told.state is not state and not state.is_final:
            self.tell()
        is_sooner = machine.next_deadline < self.wakes_at
        if is_sooner or self.notes or state.is_final or self.beside:
            self.changed.set()

    def start_beside(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have something done while the job waits; it is cancelled when the job ends."""
        if self.nursery is not None:
            self.nursery.start_soon(act)
        else:
            self.beside.append(act)


def _ignore(_: Progress) -> None:
    """For clients that do not care."""


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
        self._runs: dict[bytes, _Run | None] = {}
        self._is_draining = False
        self._ended = trio.Event()
        self._fences: OrderedDict[bytes, int] = OrderedDict()
        """The last fence of each job that ended lately, for clients that submit it again."""
        self._strays: Counter[PeerId] = Counter()
        """How many results of jobs that we know nothing of each worker had recorded here."""
        self._explainers: dict[bytes, Callable[[], Explanation]] = {}
        self._explanations: OrderedDict[bytes, Explanation] = OrderedDict()
        sessions.subscribe(
            (Lease, Refuse, Renew, Chunk, Done, Failed), self._on_message, self._on_lost
        )

    async def run(
        self, spec: JobSpec, on_progress: OnProgress = _ignore, on_taken: OnTaken | None = None
    ) -> JobResult:
        """Have a worker do this job and return its result, whose acceptance is durable then.

        ``on_progress`` is called for the latest state only, in whichever task learns of it, so it
        must neither block nor raise. ``on_taken`` is awaited
        with the result before its acceptance: what it raises leaves the job without one, and its
        outcome with the worker. Cancelling cancels the job.

        Raises ``InputError`` for a job that can't be, ``NoWorkerError`` when nobody takes it,
        ``Refused`` when the named peer does not or this node is busy, and ``JobFailed`` with the
        worker's reason, or with code ``expired`` or ``cancelled``.
        """
        check(spec)
        self._reserve(spec.job_id)
        try:
            needs = spec.needs
            considered, peers, _ = self._placement.choose(
                needs, trio.current_time(), self._sessions.crowded()
            )
            watch = self._ledger.stopwatch()
            began = watch.started_at, watch.start_us
            if not peers:
                why = Explanation.of_nobody(needs, considered, spec.job_id, began)
                self._explained(spec.job_id, why)
                raise nobody(spec, considered, {})
            terms, outgoing = await self._commit(spec)
            past = self._acceptance_of(terms)
            submitted = await self._ledger.submitted(terms, watch)
            deadline = trio.current_time() + spec.budget_ms / 1_000
            machine = SubmitterJob(
                terms,
                peers,
                deadline,
                is_named=spec.peer is not None,
                last_fence=max(self._fences.pop(spec.job_id, 0), past.fence if past else 0),
            )
            self._placement.retries.earn()
            machine.may_retry = self._placement.retries.take
            machine.input_digests = outgoing.digests
            explain = partial(Explanation.of, needs, considered, machine, began)
            self._explainers[spec.job_id] = explain
            try:
                await self._carry(machine, outgoing, on_progress)
            finally:
                self._explained(spec.job_id, self._explainers.pop(spec.job_id)())
                if machine.state is not JobState.DONE:
                    await self._write_end(machine, submitted, watch)
            if machine.state is not JobState.DONE:
                raise failure_of(spec, machine, considered)
            result = self._result_of(machine, submitted, watch)
            if on_taken is not None:
                await on_taken(result)
            return await self._accept(machine, result, watch, past)
        finally:
            del self._runs[spec.job_id]
            self._ended.set()

    def explanation(self, job_id: bytes) -> Explanation | None:
        """Return why a job went where it went: one that is under way, or of the last
        ``MAX_EXPLANATIONS``.
        """
        explain = self._explainers.get(job_id)
        return explain() if explain else self._explanations.get(job_id)

    def _explained(self, job_id: bytes, explanation: Explanation) -> None:
        self._explanations[job_id] = explanation
        if len(self._explanations) > MAX_EXPLANATIONS:
            self._explanations.popitem(last=False)

    def cancel(self, job_id: bytes) -> bool:
        """Cancel a job that is being submitted; its ``run`` raises. Tell whether there was one."""
        run = self._runs.get(job_id)
        if run is None:
            return False
        self._perform(run, run.machine.cancel())
        return True

    async def drain(self) -> None:
        """Refuse new jobs, and return when those at hand have ended."""
        self._is_draining = True
        while self._runs:
            self._ended = trio.Event()
            await self._ended.wait()

    def _reserve(self, job_id: bytes) -> None:
        if self._is_draining:
            raise Refused("this node is stopping", code="draining")
        if job_id in self._runs:
            raise Refused("this job is already being submitted", code="already-running")
        if len(self._runs) >= MAX_SUBMITTER_JOBS:
            raise Refused(
                f"{MAX_SUBMITTER_JOBS} jobs are being submitted", code="busy", retry_after_ms=1_000
            )
        self._runs[job_id] = None

    def _acceptance_of(self, terms: Terms) -> Acceptance | None:
        """Return how this job was accepted before; raise ``Refused`` if another job was, under its
        id.
        """
        past = self._accepted.get(terms.job_id)
        if past is None:
            return None
        wanted = (terms.kind, terms.model, terms.input_cid)
        if (past.kind, past.model, past.input_cid) != wanted:
            raise other_specification()
        return past

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
            size_bytes=len(spec.input),
            input_cid=bytes(outgoing.cid),
            input_salt=salt,
            output_salt=self._salts.of_output(spec.job_id),
            requirements=spec.requirements.facts(),
        )
        return terms, outgoing

    async def _carry(
        self, machine: SubmitterJob, outgoing: Outgoing, on_progress: OnProgress
    ) -> None:
        """Carry the job to its end."""
        run = self._runs[machine.terms.job_id] = _Run(machine, outgoing, on_progress)
        try:
            self._perform(run, machine.start(trio.current_time()))
            while not machine.state.is_final and not run.beside:
                await self._next_step(run)
            if not machine.state.is_final:
                await self._carry_beside(run)
            await self._write_notes(run)
        finally:
            self._perform(run, machine.cancel())
            self._let_go(run)
            self._remember_fence(machine)

    async def _carry_beside(self, run: _Run) -> None:
        """Carry a job to its end for which something is to be done besides."""
        async with trio.open_nursery() as run.nursery:
            for act in run.beside:
                run.nursery.start_soon(act)
            run.beside.clear()
            while not run.machine.state.is_final:
                await self._next_step(run)
            run.nursery.cancel_scope.cancel()

    async def _next_step(self, run: _Run) -> None:
        """Tell and write what is new, then wait until something happens or is due."""
        run.tell()
        await self._write_notes(run)
        run.changed = trio.Event()
        run.wakes_at = min(run.machine.next_deadline, trio.current_time() + PROGRESS_S)
        run.wake()
        with trio.move_on_at(run.wakes_at) as patience:
            await run.changed.wait()
        now = trio.current_time()
        if patience.cancelled_caught and run.machine.next_deadline <= now:
            self._perform(run, run.machine.tick(now))

    async def _write_notes(self, run: _Run) -> None:
        while run.notes:
            await self._write_note(run.machine.terms.job_id, run.notes.popleft())

    async def _write_note(self, job_id: bytes, note: Note) -> None:
        try:
            match note:
                case Late():
                    await self._ledger.late(job_id, note)
                case Lost():
                    await self._ledger.lost(job_id, note)
                case Violation():
                    await self._ledger.report(note.error)
        except (CoveyError, OSError) as error:  # a note is no reason to lose the job's result
            log.warning("note not recorded", extra={"error": str(error)})

    async def _write_end(self, machine: SubmitterJob, submitted: CID, watch: Stopwatch) -> None:
        """Record that a job has no result, even if its client is gone; what this node was stopped
        under is not over.
        """
        failed = machine.failed
        status = machine.state.value
        if machine.state is JobState.CANCELLED and self._is_draining:
            status = "interrupted"
        end = Ended(
            machine.terms,
            submitted,
            status,
            machine.attempts,
            failed.code if failed else "",
            failed.record_cid if failed else b"",
        )
        with trio.CancelScope(shield=True):
            try:
                await self._ledger.ended(end, watch)
            except (CoveyError, OSError) as error:
                log.warning("end not recorded", extra={"error": str(error)})

    def _result_of(self, machine: SubmitterJob, submitted: CID, watch: Stopwatch) -> JobResult:
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
            submitted_cid=submitted,
            accepted_cid=None,
            fence=done.fence,
            attempts=machine.attempts,
            timings={**done.timings, "total_ms": round(watch.duration_us / 1_000, 3)},
            execution=dict(done.execution),
        )

    async def _accept(
        self, machine: SubmitterJob, result: JobResult, watch: Stopwatch, past: Acceptance | None
    ) -> JobResult:
        """Make the acceptance durable, then tell the worker. There is one acceptance of a job: what
        was accepted in the past and asked for again is recorded as repeated.
        """
        done, terms = machine.done, machine.terms
        assert done is not None, "a job that is DONE has a result"
        self._salts.keep(await digest_of(result.output), terms.output_salt)
        if past is not None:
            await self._ledger.repeated(terms, past.cid, result.worker, done, watch)
            accepted = past.cid
        else:
            accepted = await self._accept_once(terms, result, done, watch)
        self._acknowledge(machine)
        return replace(result, accepted_cid=accepted)

    async def _accept_once(
        self, terms: Terms, result: JobResult, done: Done, watch: Stopwatch
    ) -> CID:
        taken = None
        with trio.CancelScope(shield=True):  # durable but not remembered, it could happen twice
            cid = await self._ledger.accepted(
                terms, result.submitted_cid, result.worker, done, watch
            )
            taken = Acceptance(cid, done.fence, terms.kind, terms.model, terms.input_cid)
            self._accepted.add(terms.job_id, taken)
        assert taken is not None, "a shield swallows nothing"
        return taken.cid

    def _acknowledge(self, machine: SubmitterJob) -> None:
        for effect in machine.acknowledge():
            if isinstance(effect, Send) and (link := self._sessions.current(effect.peer)):
                link.send(effect.message)

    # Effects

    def _perform(self, run: _Run, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(run, effect)
                case SendInput():
                    self._send_input(run, effect)
                case Violation() | Late() | Lost():
                    run.notes.append(effect)
                case _:
                    raise AssertionError("the others are a worker's")
        self._learn(run.machine)
        run.wake()

    def _learn(self, machine: SubmitterJob) -> None:
        """Tell placement what was noticed of workers."""
        while machine.signs:
            peer, sign = machine.signs.popleft()
            self._placement.note(machine.terms, peer, sign, trio.current_time())

    def _send(self, run: _Run, effect: Send) -> None:
        link = run.links.get(effect.peer)
        if link is None and isinstance(effect.message, Offer):
            link = self._sessions.current(effect.peer)
            if link is None:
                run.start_beside(partial(self._connect, run, effect))
                return
            self._bind(run, link)
        if link is not None:
            link.send(effect.message)

    async def _connect(self, run: _Run, effect: Send) -> None:
        """Open a session for an offer; it is not sent if the job has moved on meanwhile."""
        machine = run.machine
        try:
            link = await self._sessions.open(effect.peer)
        except TransportError as error:
            self._perform(run, self._unreached(machine, effect, error))
            return
        is_current = machine.state is JobState.OFFERED and machine.fence == effect.message.fence
        if is_current:
            self._bind(run, link)
            link.send(effect.message)

    def _unreached(
        self, machine: SubmitterJob, effect: Send, error: TransportError
    ) -> list[Effect]:
        """Take an offer that could not be sent as an answer: one that comes later if it is our own
        sessions that have no room.
        """
        job_id, fence = effect.message.job_id, effect.message.fence
        now = trio.current_time()
        if error.code == SESSIONS_FULL:
            busy = Refuse(job_id, fence, BUSY, error.message, SESSIONS_FULL_RETRY_MS)
            return machine.receive(effect.peer, busy, now)
        if isinstance(error, PeerUnreachableError):  # others say nothing about the peer
            machine.signs.append((effect.peer, Sign.UNANSWERED))
        return machine.lost(effect.peer, why(error), now)

    def _bind(self, run: _Run, link: SessionLink) -> None:
        run.links[link.peer_id] = link
        link.jobs.add((ROLE, run.machine.terms.job_id))

    def _remember_fence(self, machine: SubmitterJob) -> None:
        self._fences[machine.terms.job_id] = machine.fence
        if len(self._fences) > MAX_SUBMITTER_JOBS:
            self._fences.popitem(last=False)

    def _let_go(self, run: _Run) -> None:
        for link in run.links.values():
            link.jobs.discard((ROLE, run.machine.terms.job_id))

    def _send_input(self, run: _Run, effect: SendInput) -> None:
        link = run.links.get(effect.peer)
        if link is None:
            return
        machine = run.machine
        messages = takewhile(
            lambda _: machine.fence == effect.fence and not machine.state.is_final,
            (
                Input(machine.terms.job_id, effect.fence, piece.index, piece.body, piece.digest)
                for piece in run.input.pieces(effect.first_piece)
            ),
        )
        if run.input.is_inline:
            for message in messages:
                link.send(message)
        else:
            run.start_beside(partial(link.send_content, messages))

    # Sessions

    def _on_message(self, link: SessionLink, message: FromWorker) -> None:
        run = self._runs.get(message.job_id)
        if run is None:
            self._on_stray(link, message)
            return
        effects = run.machine.receive(link.peer_id, message, trio.current_time())
        self._perform(run, effects)

    def _on_stray(self, link: SessionLink, message: FromWorker) -> None:
        """Free a worker that still holds something of a job that has ended here, or that we lost
        in a crash.
        """
        match message:
            case Lease():
                link.send(Release(message.job_id, message.fence))
            case Renew():
                link.send(Cancel(message.job_id, message.fence))
            case Done() if message.job_id not in self._runs:
                link.send(Ack(message.job_id, message.fence))
                if message.job_id not in self._fences:
                    self._strays[link.peer_id] += 1
                    if self._strays[link.peer_id] > MAX_STRAY_RESULTS:
                        return
                late = Late(link.peer_id, message.fence, message.output_cid, message.record_cid)
                self._sessions.start_soon(self._write_note, message.job_id, late)
            case Failed():
                link.send(Ack(message.job_id, message.fence))
            case _:
                pass

    def _on_lost(self, link: SessionLink) -> None:
        for role, job_id in list(link.jobs):
            run = self._runs.get(job_id)
            if role == ROLE and run is not None and run.links.get(link.peer_id) is link:
                del run.links[link.peer_id]
                now = trio.current_time()
                self._perform(run, run.machine.lost(link.peer_id, link.why_ended, now))
