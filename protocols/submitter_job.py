"""One job as its submitter sees it: rounds of offers, attempts, failover, and the one result.

An *attempt* begins when a lease of a round is accepted; it has the fence of its round. When the
attempt is lost, the next round begins with a higher fence, and the lost worker is asked last: if it
still has the job, it goes on there. One that was lost while it sent its output is asked among the
first. A round that everyone has refused is repeated within the job's budget as long as some are
merely busy.

To an only candidate a small input may go along with the first offer: it runs the job unless it
refuses, a round trip less. It may be at work from then on, so that its loss is that of an attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from protocols import job_history as history
from protocols.attempt import Attempt
from protocols.attempts import Attempts
from protocols.errors import RemoteProtocolError
from protocols.job import (
    EXPIRED,
    Accept,
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
from protocols.limits import MAX_ATTEMPTS
from protocols.offers import Offers
from protocols.pieces import Held
from protocols.round import Candidates
from protocols.seen_fences import SeenFences
from protocols.session import (
    Effect,
    JobEvent,
    JobState,
    Lifecycle,
    Send,
    SendInput,
    Violation,
)
from protocols.signs import Sign


class SubmitterJob:
    """The submitter's machine. ``candidates`` come in the order in which they are to be asked.

    ``last_resorts`` among them are asked alone, when no other will do. ``last_fence`` is the latest
    that an earlier submission used, so that its stray results can't be taken for this one's.

    Methods return effects to carry out in order; ``next_deadline`` says when ``tick`` is due.
    """

    def __init__(
        self,
        terms: Terms,
        candidates: Sequence[str],
        deadline: float,
        *,
        is_named: bool = False,
        last_fence: int = 0,
        last_resorts: Collection[str] = (),
    ) -> None:
        self.terms = terms
        self.fence = last_fence
        self.history = history.JobHistory()
        self.signs: deque[tuple[str, Sign]] = deque()
        """What was noticed of workers, until the caller takes it."""
        self.may_retry: Callable[[float], bool] = lambda _now: True
        """Whether an attempt that its worker spoiled may be followed by another at that time."""
        self.is_out_of_retries = False
        self.interrupted = 0  # attempts that ended with their submitter: they use nothing up
        self.input_digests: Sequence[bytes] = ()
        """Those of all pieces of the input: a worker that has some of them need not get these."""
        self.done: Done | None = None
        self.failed: Failed | None = None
        self._is_named = is_named
        self._life = Lifecycle()
        self._deadline = deadline
        asked = Candidates(candidates, last_resorts)
        self._offers = Offers(terms, asked, deadline, self.history, self.signs)
        self._violators: set[str] = set()
        self._attempts = Attempts(terms, last_fence, self.history, self.signs)
        self._seen_fences = SeenFences()

    def stream(self) -> None:
        """Tell by ``Grown`` how the output comes into being; called before ``start``."""
        self._attempts.stream()
        self._offers.is_streamed = True

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._life.state

    @property
    def next_deadline(self) -> float:
        """When ``tick`` must be called if nothing else happens."""
        match self.state:
            case JobState.OFFERED:
                return min(self._deadline, self._offers.round.next_deadline)
            case JobState.LEASED | JobState.RUNNING if attempt := self._attempts.current:
                return min(self._deadline, attempt.ends_at)
            case _:
                return self._deadline

    @property
    def worker(self) -> str | None:
        """Who has the job, or had it when it ended."""
        return self._attempts.worker

    @property
    def attempts(self) -> int:
        """How many there have been."""
        return self._attempts.count + self.interrupted

    @property
    def losses(self) -> list[tuple[str, str]]:
        """(worker, why) of each attempt that was lost; those of earlier submissions are added."""
        return self._attempts.losses

    @property
    def progress(self) -> tuple[int, int]:
        """Items done in this attempt, and of how many."""
        return self._attempts.progress

    @property
    def owed(self) -> frozenset[tuple[str, int]]:
        """Who may still send a result, under which fence."""
        return self._attempts.owed

    @property
    def refusals(self) -> dict[str, Refuse]:
        """Why each candidate of the last round said no, by its last word."""
        return self._offers.round.refusals

    @property
    def only_candidate(self) -> str | None:
        """The one who may be asked, if it is only one."""
        return self._offers.only_candidate

    def output(self) -> bytes:
        """Return the output of a job that is DONE."""
        return self._attempts.output()

    def answer(self, peer: str, done: Done, now: float) -> bytes | None:
        """Return the output that this brings or ends, if it is whole and of who has the job."""
        if peer == self._offers.entrusted and done.fence == self.fence:
            self._on_first_word(peer, done, now)
        return self._attempts.answer(done) if self._is_from_worker(peer, done.fence) else None

    def start(self, now: float, small_input: bytes | None = None) -> list[Effect]:
        """Put the job to the first candidates; where there is only one, ``small_input``, the whole
        input, goes along, and it runs the job at once.
        """
        self._life.step(JobEvent.OFFER)
        only = self.only_candidate
        effects = self._new_attempt(now, small_input if only else None)
        if small_input is not None and only is not None:
            self._attempts.entrust(only, self.fence)
        return effects

    def receive(self, peer: str, message: FromWorker, now: float) -> list[Effect]:
        """Take a message from a worker; what breaks the protocol costs that worker the job."""
        if peer == self._offers.entrusted and message.fence == self.fence:
            self._on_first_word(peer, message, now)
        try:
            return _HANDLERS[type(message)](self, peer, message, now)
        except RemoteProtocolError as error:
            # Reported once: who has no part in the job may go on and on.
            violation = [] if peer in self._violators else [Violation(peer, error)]
            self._violators.add(peer)
            return [*violation, *self._drop(peer, f"broke the protocol: {error}", now)]

    def lost(self, peer: str, why: str, now: float) -> list[Effect]:
        """The session with ``peer`` is gone, or it could not be reached."""
        if self.state.is_final:
            return []
        if peer == self._offers.entrusted:
            self._begin(peer, now)
        if peer == self.worker:
            return self._move_on(why, now, Sign.LOST)
        if self._is_asking(peer):
            return [*self._offers.unreached(peer, why, now), *self._choose_if_due(now)]
        return []

    def tick(self, now: float) -> list[Effect]:
        """Act on what is due at ``now``."""
        if self.state.is_final:
            return []
        if now >= self._deadline:
            return self._end(JobEvent.EXPIRE)
        if self.state is JobState.OFFERED:
            is_rested = self._offers.round.is_rested(now)
            return self._ask_everyone(now) if is_rested else self._choose_if_due(now)
        return self._give_up_if_due(now)

    def cancel(self) -> list[Effect]:
        """The client wants it no more; does nothing to a job that has ended."""
        return [] if self.state.is_final else self._end(JobEvent.CANCEL)

    def acknowledge(self) -> list[Effect]:
        """The result of a DONE job is durable here."""
        assert self.worker is not None, "a job that is DONE has a worker"
        return [Send(self.worker, Ack(self.terms.job_id, self.fence))]

    # Rounds: offers out, leases and refusals in

    def _new_attempt(self, now: float, small_input: bytes | None = None) -> list[Effect]:
        self.fence = self._seen_fences.next_after(self.fence)
        return self._ask_everyone(now, small_input)

    def _ask_everyone(self, now: float, small_input: bytes | None = None) -> list[Effect]:
        return self._offers.begin(self.fence, now, small_input) or self._exhausted(now)

    def _on_lease(self, peer: str, lease: Lease, now: float) -> list[Effect]:
        is_chosen = peer == self.worker and lease.fence == self.fence
        if lease.fence == self.fence and self._is_asking(peer):
            Held(lease.held_pieces, lease.held_digest).check_claim(self.input_digests)
            self._offers.leased(peer, lease, now)
            return self._choose_if_due(now)
        return [] if is_chosen else [Send(peer, Release(self.terms.job_id, lease.fence))]

    def _on_refuse(self, peer: str, refuse: Refuse, now: float) -> list[Effect]:
        if refuse.fence != self.fence:
            return []
        if self._is_asking(peer):
            self._seen_fences.add(refuse, self.fence)
            self._offers.refused(peer, refuse, now)
            return self._choose_if_due(now)
        if self._is_from_worker(peer, refuse.fence):
            return self._move_on(f"refused after its lease: {refuse.reason}", now, Sign.ENDED)
        return []

    def _is_asking(self, peer: str) -> bool:
        return self.state is JobState.OFFERED and self._offers.round.is_asking(peer)

    def _on_first_word(self, peer: str, message: FromWorker, now: float) -> None:
        """Whoever was entrusted with the job has it, unless it answers as to any other offer: it
        refuses, or it knows the job already, or not what an input in an offer means.
        """
        if isinstance(message, Lease | Refuse):
            self._offers.entrusted = None
            if isinstance(message, Refuse):
                self._attempts.refused(peer, self.fence)
        else:
            self._begin(peer, now)

    def _choose_if_due(self, now: float) -> list[Effect]:
        """Accept the best lease, once nobody else may still answer or waiting for them would cost
        too much; without one, ask others.
        """
        offered = self._offers.round
        if offered.is_open(now) or offered.is_resting:
            return []
        best = offered.best()
        if best is not None:
            return self._accept(*best, now)
        return [*self._offers.expire(now), *(self._offers.widen(now) or self._exhausted(now))]

    def _accept(self, peer: str, lease: Lease, now: float) -> list[Effect]:
        freed = self._offers.withdraw(chosen=peer)
        held = self._begin(peer, now, lease)
        effects: list[Effect] = [Send(peer, Accept(self.terms.job_id, self.fence, *held))]
        if lease.needs_input:
            effects.append(SendInput(peer, self.fence, lease.held_pieces))
        return effects + freed

    def _exhausted(self, now: float) -> list[Effect]:
        if self._seen_fences.may_void(self.fence):
            return self._new_attempt(now)
        return [] if self._offers.round.rest(now) else self._end(JobEvent.FAIL)

    # Attempts: one worker, one fence

    def _begin(self, peer: str, now: float, lease: Lease | None = None) -> Held:
        """An attempt begins: by a lease, or by the word of a worker that had the input with its
        offer. Returns what is here of its output.
        """
        self._life.step(JobEvent.LEASE)
        self._offers.withdraw()
        return self._attempts.begin(peer, self.fence, now, lease)

    def _is_from_worker(self, peer: str, fence: int) -> bool:
        return peer == self.worker and fence == self.fence and not self.state.is_final

    def _heard(self, peer: str, fence: int, now: float) -> Attempt | None:
        """Return the attempt that a message belongs to, if it is under way."""
        attempt = self._attempts.current
        if attempt is None or not self._is_from_worker(peer, fence):
            return None
        attempt.heard(now)
        if self.state is JobState.LEASED:
            self._life.step(JobEvent.START)
            self.history.add(now, history.RUNNING, peer, self.fence)
        return attempt

    def _on_renew(self, peer: str, renew: Renew, now: float) -> list[Effect]:
        if attempt := self._heard(peer, renew.fence, now):
            attempt.renewed(renew, now)
        return []

    def _on_chunk(self, peer: str, chunk: Chunk, now: float) -> list[Effect]:
        if self._heard(peer, chunk.fence, now) is None:
            return []
        grown = self._attempts.add(chunk, now)
        return [grown] if grown is not None else []

    def _on_done(self, peer: str, done: Done, now: float) -> list[Effect]:
        attempt = self._heard(peer, done.fence, now)
        if attempt is None:
            is_taken = (peer, done.fence) == (self.worker, self.fence)  # and will be acknowledged
            return [] if is_taken else self._attempts.stray(peer, done)
        attempt.check(done)
        self._life.step(JobEvent.FINISH)
        self._attempts.finish(self.fence, now)
        self.done = done
        return []

    def _on_failed(self, peer: str, failed: Failed, now: float) -> list[Effect]:
        ack = Send(peer, Ack(self.terms.job_id, failed.fence))
        if not self._is_from_worker(peer, failed.fence):
            return [ack]
        is_fault, is_expired = failed.is_worker_fault, failed.code == EXPIRED
        if not is_expired:
            self.failed = failed
            if is_fault and not self._is_named:
                return [ack, *self._drop(peer, f"failed there: {failed.reason}", now)]
        self.history.add(now, history.FAILED, peer, self.fence, failed.reason)
        self.signs.append((peer, Sign.FAULT if is_fault and not is_expired else Sign.ENDED))
        self._life.step(JobEvent.EXPIRE if is_expired else JobEvent.FAIL)
        return [ack]

    def _give_up_if_due(self, now: float) -> list[Effect]:
        """Take the job from a worker that is silent, or that says it lives and does nothing."""
        attempt = self._attempts.current
        if attempt is None or (why := attempt.why_over(now)) is None:
            return []
        if not attempt.is_silent(now):
            self._offers.candidates.stalled.add(attempt.worker)
        stop = Send(attempt.worker, Cancel(self.terms.job_id, self.fence))
        return [stop, *self._move_on(why, now, Sign.SILENT)]

    def _move_on(self, why: str, now: float, sign: Sign) -> list[Effect]:
        """The attempt is lost: go on under a higher fence, and ask the lost worker last; or among
        the first, if only its session was lost and it has the output.
        """
        has_output = self._attempts.has_output
        lost = self._attempts.lose(why, sign, self.fence, now)
        candidates = self._offers.candidates
        is_retry = self._attempts.count < MAX_ATTEMPTS and sign is Sign.FAULT and bool(candidates)
        self.is_out_of_retries = is_retry and not self.may_retry(now)
        if self._attempts.count >= MAX_ATTEMPTS or self.is_out_of_retries:
            self._life.step(JobEvent.FAIL)
            return [lost]
        candidates.lost(lost.peer, is_wanted=sign is Sign.LOST and has_output)
        self._life.step(JobEvent.LOSE)
        return [lost, *self._new_attempt(now)]

    def _drop(self, peer: str, why: str, now: float) -> list[Effect]:
        """Never ask this peer about this job again."""
        self._offers.candidates.drop(peer)
        if self.state.is_final:
            return []
        if peer == self.worker:
            stop = Send(peer, Cancel(self.terms.job_id, self.fence))
            return [stop, *self._move_on(why, now, Sign.FAULT)]
        if self._offers.round.is_asking(peer):
            self._offers.dropped(peer, why, now)
            return self._choose_if_due(now)
        return []

    def _end(self, event: JobEvent) -> list[Effect]:
        """End the job here, and free whoever holds something of it."""
        self._life.step(event)
        effects = self._offers.withdraw()
        if self.worker is not None:
            self.signs.append((self.worker, Sign.ENDED))
            effects.append(Send(self.worker, Cancel(self.terms.job_id, self.fence)))
        return effects


_HANDLERS: Final[dict[type[Any], Callable[[SubmitterJob, str, Any, float], list[Effect]]]] = {
    Lease: SubmitterJob._on_lease,
    Refuse: SubmitterJob._on_refuse,
    Renew: SubmitterJob._on_renew,
    Chunk: SubmitterJob._on_chunk,
    Done: SubmitterJob._on_done,
    Failed: SubmitterJob._on_failed,
}
