"""One job on its way from this node: what its machine decides is carried out here.

Sessions are opened, offers and inputs sent, and what went wrong is written down, while the job's
own task waits for its end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final

import trio

from node.job import Progress
from node.judging import ASIDE_BYTES, BAD_OUTPUT, aside, check_output, check_precision
from node.ledger import JobLedger
from node.link import SessionLink
from node.placement import Placement
from node.sessions import SESSIONS_FULL, Sessions, why
from protocols.errors import (
    CoveyError,
    PeerUnreachableError,
    RemoteProtocolError,
    TransportError,
)
from protocols.job import BUSY, Done, Failed, FromWorker, Input, Offer, Refuse
from protocols.keys import PeerId
from protocols.limits import MAX_REASON_CHARS, PROGRESS_S
from protocols.pieces import Outgoing
from protocols.session import Effect, Grown, JobState, Late, Lost, Send, SendInput, Violation
from protocols.signs import Sign
from protocols.submitter_job import SubmitterJob

ROLE: Final = "submitter"
SESSIONS_FULL_RETRY_MS: Final = 250  # a session is idle again once its job has its result

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]
OnGrown = Callable[[Grown], None]
Note = Violation | Late | Lost
"""What a machine wants written down."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every job of a submitter is carried out with."""

    sessions: Sessions
    placement: Placement
    ledger: JobLedger

    async def write(self, job_id: bytes, note: Note) -> None:
        """Write down what went wrong with a job: no reason to lose its result if that fails."""
        try:
            match note:
                case Late():
                    await self.ledger.late(job_id, note)
                case Lost():
                    await self.ledger.lost(job_id, note)
                case Violation():
                    await self.ledger.report(note.error)
        except (CoveyError, OSError) as error:
            log.warning("note not recorded", extra={"error": str(error)})


@dataclass(frozen=True, slots=True)
class Listener:
    """What a client wants to hear while its job is under way; called in whichever task learns of
    it, so neither may block or raise.
    """

    on_progress: OnProgress
    """Told the latest state only."""
    on_grown: OnGrown | None = None
    """Told what comes of an output while it comes into being."""


class SubmittedJob:
    """Made for one call of ``carry``; the others tell it what happens meanwhile."""

    def __init__(
        self, machine: SubmitterJob, content: Outgoing, listener: Listener, means: Means
    ) -> None:
        self.machine = machine
        self._input = content
        self._listener = listener
        self._means = means
        self._nursery: trio.Nursery | None = None
        """Where ``_beside`` runs; most jobs need none, and opening one is an eighth of their
        cost.
        """
        self._beside: list[Callable[[], Awaitable[None]]] = []
        """What is to be done beside waiting: sessions to open, large inputs to send."""
        self._links: dict[PeerId, SessionLink] = {}
        self._notes: deque[Note] = deque()
        self._changed = trio.Event()
        self._wakes_at = 0.0
        self._told: Progress | None = None
        self._judged: tuple[PeerId, int] | None = None
        """Whose result is being judged, under which fence: nothing more is wanted of it."""

    async def carry(self) -> None:
        """Carry the job to its end. Cancelling cancels the job."""
        machine = self.machine
        try:
            if self._listener.on_grown is not None:
                machine.stream()
            self._perform(machine.start(trio.current_time(), self._small_input()))
            while not machine.state.is_final and not self._beside:
                await self._next_step()
            if not machine.state.is_final:
                await self._carry_beside()
            await self._write_notes()
        finally:
            self.cancel()
            for link in self._links.values():
                link.jobs.discard((ROLE, machine.terms.job_id))

    def concerns(self, peer: PeerId) -> bool:
        """Whether this peer was asked, and the job is not over."""
        return peer in self._links and not self.machine.state.is_final

    def receive(self, peer: PeerId, message: FromWorker) -> None:
        """A worker says something about this job. Its result counts once it is judged."""
        if isinstance(message, Done):
            output = self.machine.answer(peer, message, trio.current_time())
            if output is not None:
                self._judge(peer, message, output)
                return
        self._perform(self.machine.receive(peer, message, trio.current_time()))

    def lost(self, link: SessionLink) -> None:
        """A session has ended; what it means for the job, if it used it."""
        if self._links.get(link.peer_id) is link:
            del self._links[link.peer_id]
            if self._judged == (link.peer_id, self.machine.fence):
                return  # its result is here
            now = trio.current_time()
            self._perform(self.machine.lost(link.peer_id, link.why_ended, now))

    def cancel(self) -> None:
        """End the job, if it is under way."""
        if not self.machine.state.is_final:
            self._perform(self.machine.cancel())

    # Waiting

    async def _carry_beside(self) -> None:
        """Carry a job to its end for which something is to be done besides."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for act in self._beside:
                nursery.start_soon(act)
            self._beside.clear()
            try:
                while not self.machine.state.is_final:
                    await self._next_step()
            finally:
                self._nursery = None  # before it closes: until then the job is no final one
            nursery.cancel_scope.cancel()

    async def _next_step(self) -> None:
        """Tell and write what is new, then wait until something happens or is due."""
        self._tell()
        await self._write_notes()
        self._changed = trio.Event()
        self._wakes_at = trio.current_time() + PROGRESS_S
        if self._judged is None:  # a worker that has said everything is not late
            self._wakes_at = min(self.machine.next_deadline, self._wakes_at)
        self._wake()
        with trio.move_on_at(self._wakes_at) as patience:
            await self._changed.wait()
        now = trio.current_time()
        is_due = self._judged is None and self.machine.next_deadline <= now
        if patience.cancelled_caught and is_due:
            self._perform(self.machine.tick(now))

    def _tell(self) -> None:
        """Tell the client what is new."""
        machine = self.machine
        progress = Progress(machine.state, machine.worker, *machine.progress, machine.attempts)
        if self._told != progress:
            self._told = progress
            self._listener.on_progress(progress)

    def _wake(self) -> None:
        """Tell of a new state at once, for that is no reason to wake the job's own task; wake it if
        there is something for it to do. Items done are told every ``PROGRESS_S``.
        """
        told, machine = self._told, self.machine
        state = machine.state
        if state.is_final or self._notes or self._beside:
            self._changed.set()
        if state.is_final:
            return
        if told is not None and told.state is not state:
            self._tell()
        if self._judged is None and machine.next_deadline < self._wakes_at:
            self._changed.set()

    def _start_beside(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have something done while the job waits; it is cancelled when the job ends."""
        if self._nursery is not None:
            self._nursery.start_soon(act)
        else:
            self._beside.append(act)

    async def _write_notes(self) -> None:
        while self._notes:
            await self._means.write(self.machine.terms.job_id, self._notes.popleft())

    # Results

    def _judge(self, peer: PeerId, done: Done, output: bytes) -> None:
        """Look at a result, at once or beside everything else if it is large."""
        terms, content = self.machine.terms, self._input.content
        offer = self._means.placement.offer_of(peer, terms.model)

        def judge() -> RemoteProtocolError | None:
            try:
                check_precision(terms, done, offer.precisions if offer else None)
                check_output(terms.kind, output, content)
            except RemoteProtocolError as error:
                return error
            return None

        if len(output) + len(content) <= ASIDE_BYTES:
            self._decide(peer, done, judge())
        elif self._judged != (peer, done.fence):
            self._judged = peer, done.fence
            self._start_beside(partial(self._judge_aside, peer, done, judge))

    async def _judge_aside(
        self, peer: PeerId, done: Done, judge: Callable[[], RemoteProtocolError | None]
    ) -> None:
        fault = await aside(judge)
        self._judged = None
        self._decide(peer, done, fault)

    def _decide(self, peer: PeerId, done: Done, fault: RemoteProtocolError | None) -> None:
        """Take a result, or take the job from a worker whose result is none, as if it had failed.
        It does not know that: the report is ours.
        """
        message: Done | Failed = done
        if fault is not None:
            reason = f"its output is none: {fault.message}"[:MAX_REASON_CHARS]
            message = Failed(done.job_id, done.fence, BAD_OUTPUT, reason, True, done.record_cid)
            self._means.ledger.failed_there(peer, message)
            self._notes.append(Violation(peer, fault))
        self._perform(self.machine.receive(peer, message, trio.current_time()))

    # Effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case SendInput():
                    self._send_input(effect)
                case Grown() if self._listener.on_grown is not None:
                    self._listener.on_grown(effect)
                case Violation() | Late() | Lost():
                    self._notes.append(effect)
                case _:
                    raise AssertionError("the others are a worker's")
        self._learn()
        self._wake()

    def _learn(self) -> None:
        """Tell placement what was noticed of workers."""
        machine = self.machine
        while machine.signs:
            peer, sign = machine.signs.popleft()
            is_cold = machine.done is not None and machine.done.timings.get("load_ms", 0.0) > 0
            now = trio.current_time()
            self._means.placement.note(machine.terms, peer, sign, now, is_cold=is_cold)

    def _send(self, effect: Send) -> None:
        link = self._links.get(effect.peer)
        if link is None and isinstance(effect.message, Offer):
            link = self._means.sessions.current(effect.peer)
            if link is None:
                self._start_beside(partial(self._connect, effect))
                return
            self._bind(link)
        if link is not None:
            link.send(effect.message)

    def _bind(self, link: SessionLink) -> None:
        self._links[link.peer_id] = link
        link.jobs.add((ROLE, self.machine.terms.job_id))

    async def _connect(self, effect: Send) -> None:
        """Open a session for an offer; it is not sent if the job has moved on meanwhile."""
        machine = self.machine
        try:
            link = await self._means.sessions.open(effect.peer)
        except TransportError as error:
            self._perform(self._unreached(effect, error))
            return
        is_current = machine.state is JobState.OFFERED and machine.fence == effect.message.fence
        if is_current:
            self._bind(link)
            link.send(effect.message)

    def _unreached(self, effect: Send, error: TransportError) -> list[Effect]:
        """Take an offer that could not be sent as an answer: one that comes later if it is our own
        sessions that have no room.
        """
        job_id, fence = effect.message.job_id, effect.message.fence
        now = trio.current_time()
        if error.code == SESSIONS_FULL:
            busy = Refuse(job_id, fence, BUSY, error.message, SESSIONS_FULL_RETRY_MS)
            return self.machine.receive(effect.peer, busy, now)
        if isinstance(error, PeerUnreachableError):  # others say nothing about the peer
            self.machine.signs.append((effect.peer, Sign.UNANSWERED))
        return self.machine.lost(effect.peer, why(error), now)

    def _small_input(self) -> bytes | None:
        """What may go along with the first offer: a small input, where there is no choice, to a
        peer that has answered on its session.
        """
        link = self._means.sessions.current(self.machine.only_candidate or "")
        is_ready = link is not None and link.is_met and self._input.is_inline
        return self._input.content if is_ready else None

    def _send_input(self, effect: SendInput) -> None:
        link = self._links.get(effect.peer)
        if link is None:
            return
        machine = self.machine
        messages = takewhile(
            lambda _: machine.fence == effect.fence and not machine.state.is_final,
            (
                Input(machine.terms.job_id, effect.fence, piece.index, piece.body, piece.digest)
                for piece in self._input.pieces(effect.first_piece)
            ),
        )
        if self._input.is_inline:
            for message in messages:
                link.send(message)
        else:
            self._start_beside(partial(link.send_content, messages))
