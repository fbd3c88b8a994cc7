"""One job as its submitter sees it: offers, the choice of a lease, failover, and the one result.

A *round* puts the job to candidates, three first and twice as many each time all have refused. An
*attempt* begins when a lease is accepted; it has the fence of its round. When the attempt is lost,
the next round begins with a higher fence, and the lost worker is asked last: if it still has the
job, it goes on there. One that was lost while it sent its output is asked among the first. When
every candidate has refused but some are merely busy, the round is repeated within the job's budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from protocols import job_history as history
from protocols.errors import RemoteProtocolError
from protocols.job import (
    BUSY,
    EXPIRED,
    NO_ANSWER,
    STALE_FENCE,
    UNREACHABLE,
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
from protocols.job_output import JobOutput
from protocols.lease import LeaseClock
from protocols.limits import (
    BUSY_RETRY_S_MAX,
    BUSY_RETRY_S_MIN,
    LEASE_CHOICE_S,
    MAX_ATTEMPTS,
    MAX_FENCE,
    MAX_FENCE_JUMPS,
    OFFER_ANSWER_S,
)
from protocols.pieces import Piece
from protocols.progress import ProgressBudget
from protocols.session import (
    Effect,
    JobEvent,
    JobState,
    Late,
    Lifecycle,
    Lost,
    Send,
    SendInput,
    Violation,
)
from protocols.signs import Sign

NEVER: Final = float("inf")
FIRST_OFFERS: Final = 3  # p99 1.4x an oracle's at 1,000 workers, two offers 1.7x (decision 0004)


class SubmitterJob:
    """The submitter's machine. ``candidates`` come in the order in which they are to be asked.

    ``last_fence`` is the latest that an earlier submission of this job id used, so that its stray
    results can't be taken for this one's.

    Every method returns effects to carry out in order. After a change, ``next_deadline`` says when
    ``tick`` is due at the latest.
    """

    def __init__(
        self,
        terms: Terms,
        candidates: Sequence[str],
        deadline: float,
        *,
        is_named: bool = False,
        last_fence: int = 0,
    ) -> None:
        self.terms = terms
        self.fence = last_fence
        self.attempts = 0
        self.worker: str | None = None
        self.progress = (0, terms.items)
        self.refusals: dict[str, Refuse] = {}
        """Why each candidate said no, by its last word."""
        self.losses: list[tuple[str, str]] = []
        """(worker, why) of each attempt that was lost."""
        self.history = history.JobHistory()
        self.signs: deque[tuple[str, Sign]] = deque()
        """What was noticed of workers, until the caller takes it."""
        self.may_retry: Callable[[float], bool] = lambda _now: True
        """Whether an attempt that its worker spoiled may be followed by another at that time."""
        self.is_out_of_retries = False
        self.input_digests: tuple[bytes, ...] = ()
        """Those of all pieces of the input: a worker that has some of them need not get these."""
        self.done: Done | None = None
        self.failed: Failed | None = None
        self._is_named = is_named
        self._last_fence = last_fence
        self._life = Lifecycle()
        self._deadline = deadline
        self._order = list(candidates)
        self._unasked: deque[str] = deque()
        self._suspects: set[str] = set()
        self._stalled: set[str] = set()
        self._violators: set[str] = set()
        self._width = FIRST_OFFERS
        self._offers: dict[str, Lease | None] = {}
        self._choose_at = NEVER
        self._ask_again_at = NEVER
        self._lease = LeaseClock(0.0)
        self._budget = ProgressBudget(0.0)
        self._output = JobOutput(terms.output_salt)
        self._held: dict[tuple[str, int], bool] = {}
        self._seen_fence = 0
        self._fence_jumps = 0
        self._handlers: dict[type[Any], Callable[[str, Any, float], list[Effect]]] = {
            Lease: self._on_lease,
            Refuse: self._on_refuse,
            Renew: self._on_renew,
            Chunk: self._on_chunk,
            Done: self._on_done,
            Failed: self._on_failed,
        }

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._life.state

    @property
    def next_deadline(self) -> float:
        """When ``tick`` must be called if nothing else happens."""
        match self.state:
            case JobState.OFFERED:
                return min(self._deadline, self._choose_at, self._ask_again_at)
            case JobState.LEASED | JobState.RUNNING:
                return min(self._deadline, self._lease.ends_at, self._budget.ends_at)
            case _:
                return self._deadline

    def output(self) -> bytes:
        """Return the output of a job that is DONE."""
        return self._output.content()

    def start(self, now: float) -> list[Effect]:
        """Put the job to the first candidates."""
        self._life.step(JobEvent.OFFER)
        return self._new_round(now)

    def receive(self, peer: str, message: FromWorker, now: float) -> list[Effect]:
        """Take a message from a worker; what breaks the protocol costs that worker the job."""
        try:
            return self._handlers[type(message)](peer, message, now)
        except RemoteProtocolError as error:
            # Reported once: who has no part in the job may go on and on.
            violation = [] if peer in self._violators else [Violation(peer, error)]
            self._violators.add(peer)
            return [*violation, *self._drop(peer, f"broke the protocol: {error}", now)]

    def lost(self, peer: str, why: str, now: float) -> list[Effect]:
        """The session with ``peer`` is gone, or it could not be reached."""
        if self.state.is_final:
            return []
        if peer == self.worker:
            return self._move_on(why, now, Sign.LOST)
        if self.state is JobState.OFFERED and peer in self._offers:
            instead = self._ask_instead(now)
            return [*instead, *self._refused(peer, self._note(UNREACHABLE, why), now)]
        return []

    def tick(self, now: float) -> list[Effect]:
        """Act on what is due at ``now``."""
        if self.state.is_final:
            return []
        if now >= self._deadline:
            return self._end(JobEvent.EXPIRE)
        if self.state is JobState.OFFERED:
            is_time = now >= self._ask_again_at
            return self._ask_everyone(now) if is_time else self._choose_if_due(now)
        return self._give_up_if_due(now)

    def cancel(self) -> list[Effect]:
        """The client wants it no more; does nothing to a job that has ended."""
        return [] if self.state.is_final else self._end(JobEvent.CANCEL)

    def acknowledge(self) -> list[Effect]:
        """The result of a DONE job is durable here."""
        assert self.worker is not None, "a job that is DONE has a worker"
        return [Send(self.worker, Ack(self.terms.job_id, self.fence))]

    # Rounds: offers out, leases and refusals in

    def _new_round(self, now: float) -> list[Effect]:
        self.fence = max(self.fence, self._seen_fence) + 1
        return self._ask_everyone(now)

    def _ask_everyone(self, now: float) -> list[Effect]:
        self.refusals.clear()
        self._unasked = deque(self._order)
        self._width = FIRST_OFFERS
        self._ask_again_at = NEVER
        return self._ask_more(now)

    def _ask_more(self, now: float) -> list[Effect]:
        """Widen the round by the next candidates, or end it."""
        asked: list[str] = []
        if self._unasked and self._unasked[0] in self._stalled and self._busy_waits():
            self._unasked.clear()  # it would only stall again: wait for those who are busy
        while self._unasked and len(asked) < self._width:
            if asked and self._unasked[0] in self._suspects:
                break  # who lost the job gets it only when nobody else takes it
            asked.append(self._unasked.popleft())
        if not asked:
            return self._exhausted(now)
        self._width *= 2
        self._choose_at = now + OFFER_ANSWER_S
        self._offers = dict.fromkeys(asked)
        return self._offer_to(asked, now)

    def _ask_instead(self, now: float) -> list[Effect]:
        """Ask the next candidate in the place of one that is not there."""
        if not self._unasked or self._unasked[0] in self._suspects:
            return []
        peer = self._unasked.popleft()
        self._offers[peer] = None
        if not any(self._offers.values()):
            self._choose_at = now + OFFER_ANSWER_S
        return self._offer_to([peer], now)

    def _offer_to(self, peers: list[str], now: float) -> list[Effect]:
        for peer in peers:
            self.history.add(now, history.OFFERED, peer, self.fence)
        offer = self.terms.offer(self.fence, max(0, int((self._deadline - now) * 1000)))
        return [Send(peer, offer) for peer in peers]

    def _on_lease(self, peer: str, lease: Lease, now: float) -> list[Effect]:
        is_chosen = peer == self.worker and lease.fence == self.fence
        if self.state is JobState.OFFERED and lease.fence == self.fence and peer in self._offers:
            self._check_held(lease)
            if not any(self._offers.values()):
                self._choose_at = min(self._choose_at, now + LEASE_CHOICE_S)
            self._offers[peer] = lease
            self.history.add(now, history.LEASED, peer, self.fence, lease.eta_ms)
            return self._choose_if_due(now)
        return [] if is_chosen else [Send(peer, Release(self.terms.job_id, lease.fence))]

    def _check_held(self, lease: Lease) -> None:
        """A worker may claim only what it had from us of this input, and not all: it would run."""
        digests, count = self.input_digests, lease.held_pieces
        if count and (count >= len(digests) or digests[count - 1] != lease.held_digest):
            raise RemoteProtocolError(
                f"it claims to have {count} pieces of an input that are none", code="wrong-resume"
            )

    def _on_refuse(self, peer: str, refuse: Refuse, now: float) -> list[Effect]:
        if refuse.fence != self.fence:
            return []
        if self.state is JobState.OFFERED and peer in self._offers:
            return self._refused(peer, refuse, now)
        if self._is_from_worker(peer, refuse.fence):
            return self._move_on(f"refused after its lease: {refuse.reason}", now, Sign.ENDED)
        return []

    def _refused(self, peer: str, refuse: Refuse, now: float) -> list[Effect]:
        self.refusals[peer] = refuse
        said = f"{refuse.code} ({refuse.reason})"
        self.history.add(now, history.REFUSED, peer, self.fence, said)
        if (
            refuse.code == STALE_FENCE and refuse.seen_fence < MAX_FENCE // 2
        ):  # nobody gets that far
            self._seen_fence = max(self._seen_fence, refuse.seen_fence)
        del self._offers[peer]
        return self._choose_if_due(now)

    def _choose_if_due(self, now: float) -> list[Effect]:
        """Accept the best lease, once nobody else may still answer or waiting for them would cost
        too much.
        """
        waiting = [peer for peer, lease in self._offers.items() if lease is None]
        if waiting and now < self._choose_at:
            return []
        leases = {peer: lease for peer, lease in self._offers.items() if lease is not None}
        if leases:
            return self._accept(min(leases, key=lambda peer: leases[peer].eta_ms), now)
        for peer in waiting:
            self.refusals[peer] = self._note(NO_ANSWER, "it did not answer in time")
            self.history.add(now, history.REFUSED, peer, self.fence, NO_ANSWER)
            self.signs.append((peer, Sign.UNANSWERED))
        self._offers.clear()
        released: list[Effect] = [
            Send(peer, Release(self.terms.job_id, self.fence)) for peer in waiting
        ]
        return released if self._ask_again_at != NEVER else [*released, *self._ask_more(now)]

    def _accept(self, peer: str, now: float) -> list[Effect]:
        lease = self._offers[peer]
        assert lease is not None, "only a lease is accepted"
        self._life.step(JobEvent.LEASE)
        self.worker = peer
        self.signs.append((peer, Sign.ACCEPTED))
        self.attempts += 1
        self.history.add(now, history.ACCEPTED, peer, self.fence)
        self.progress = (0, self.terms.items)
        self._held[peer, self.fence] = True
        self._lease = LeaseClock(now)
        self._lease.accept(now)
        input_bytes = self.terms.size_bytes if lease.needs_input else 0
        self._budget = ProgressBudget(now, lease.eta_ms / 1_000, input_bytes)
        others = [other for other in self._offers if other != peer]
        self._offers.clear()
        held = self._output.begin(peer)
        effects: list[Effect] = [Send(peer, Accept(self.terms.job_id, self.fence, *held))]
        if lease.needs_input:
            effects.append(SendInput(peer, self.fence, lease.held_pieces))
        return effects + [Send(o, Release(self.terms.job_id, self.fence)) for o in others]

    def _exhausted(self, now: float) -> list[Effect]:
        """Everyone refused."""
        if self._seen_fence >= self.fence and self._fence_jumps < MAX_FENCE_JUMPS:
            self._fence_jumps += 1
            return self._new_round(now)
        waits = self._busy_waits()
        if not waits:
            return self._end(JobEvent.FAIL)
        self._choose_at = NEVER
        self._ask_again_at = now + min(max(min(waits), BUSY_RETRY_S_MIN), BUSY_RETRY_S_MAX)
        return []

    def _busy_waits(self) -> list[float]:
        """When those who are merely busy want to be asked again."""
        return [
            refuse.retry_after_ms / 1000
            for refuse in self.refusals.values()
            if refuse.code == BUSY and refuse.retry_after_ms
        ]

    def _note(self, code: str, reason: str) -> Refuse:
        """What a candidate would have said, had it answered."""
        return Refuse(self.terms.job_id, self.fence, code, reason[:200])

    # Attempts: one worker, one fence

    def _is_from_worker(self, peer: str, fence: int) -> bool:
        return peer == self.worker and fence == self.fence and not self.state.is_final

    def _heard(self, now: float) -> None:
        self._lease.renew(now)
        if self.state is JobState.LEASED:
            self._life.step(JobEvent.START)
            self.history.add(now, history.RUNNING, self.worker or "", self.fence)

    def _on_renew(self, peer: str, renew: Renew, now: float) -> list[Effect]:
        if self._is_from_worker(peer, renew.fence):
            self._heard(now)
            self.progress = (renew.items_done, renew.items_total)
            self._budget.items_are_done(renew.items_done, now)
        return []

    def _on_chunk(self, peer: str, chunk: Chunk, now: float) -> list[Effect]:
        if self._is_from_worker(peer, chunk.fence):
            self._heard(now)
            piece = Piece(chunk.index, chunk.body, chunk.digest)
            if self._output.add(piece):  # the same piece again is no progress
                self._budget.moved(now)
        return []

    def _on_done(self, peer: str, done: Done, now: float) -> list[Effect]:
        if not self._is_from_worker(peer, done.fence):
            return self._on_stray_result(peer, done)
        if not self._output.is_whole(done.size_bytes, done.output_cid):
            raise RemoteProtocolError(
                "the output that came is not the one that was committed to",
                code="output-mismatch",
                size_bytes=done.size_bytes,
            )
        self._heard(now)
        self._life.step(JobEvent.FINISH)
        self.history.add(now, history.DONE, peer, self.fence)
        self.signs.append((peer, Sign.DONE))
        self.done = done
        return []

    def _on_stray_result(self, peer: str, done: Done) -> list[Effect]:
        """A result of an attempt that is past is recorded once; of one that never was, it breaks
        the protocol.
        """
        if (peer, done.fence) == (self.worker, self.fence):
            return []  # repeated; its acknowledgement comes once it is durable
        if done.fence <= self._last_fence:
            self._held.setdefault((peer, done.fence), True)
        if (peer, done.fence) not in self._held:
            raise RemoteProtocolError("a result came for a job that the worker does not have")
        is_new, self._held[peer, done.fence] = self._held[peer, done.fence], False
        ack = Send(peer, Ack(self.terms.job_id, done.fence))
        late = Late(peer, done.fence, done.output_cid, done.record_cid)
        return [late, ack] if is_new else [ack]

    def _on_failed(self, peer: str, failed: Failed, now: float) -> list[Effect]:
        ack = Send(peer, Ack(self.terms.job_id, failed.fence))
        if not self._is_from_worker(peer, failed.fence):
            return [ack]
        self.history.add(now, history.FAILED, peer, self.fence, failed.reason)
        if failed.code == EXPIRED:
            self.signs.append((peer, Sign.ENDED))
            self._life.step(JobEvent.EXPIRE)
            return [ack]
        self.failed = failed
        if failed.is_worker_fault and not self._is_named:
            return [ack, *self._drop(peer, f"failed there: {failed.reason}", now)]
        self.signs.append((peer, Sign.FAULT if failed.is_worker_fault else Sign.ENDED))
        self._life.step(JobEvent.FAIL)
        return [ack]

    def _give_up_if_due(self, now: float) -> list[Effect]:
        """Take the job from a worker that is silent, or that says it lives and does nothing."""
        if self.worker is None:
            return []
        if self._lease.is_over(now):
            why = "its lease ended in silence"
        elif self._budget.is_over(now):
            self._stalled.add(self.worker)
            why = f"it made no progress for {self._budget.stall_s:.0f} s"
        else:
            return []
        stop = Send(self.worker, Cancel(self.terms.job_id, self.fence))
        return [stop, *self._move_on(why, now, Sign.SILENT)]

    def _move_on(self, why: str, now: float, sign: Sign) -> list[Effect]:
        """The attempt is lost: go on under a higher fence, and ask the lost worker last."""
        worker = self.worker
        assert worker is not None, "only an attempt can be lost"
        self.losses.append((worker, why))
        self.history.add(now, history.LOST, worker, self.fence, why)
        lost = Lost(worker, self.fence, why)
        self.signs.append((worker, sign))
        self.worker = None
        is_retry = self.attempts < MAX_ATTEMPTS and sign is Sign.FAULT and bool(self._order)
        self.is_out_of_retries = is_retry and not self.may_retry(now)
        if self.attempts >= MAX_ATTEMPTS or self.is_out_of_retries:
            self._life.step(JobEvent.FAIL)
            return [lost]
        self._reorder(worker, is_first=sign is Sign.LOST and self._output.has_begun)
        self._life.step(JobEvent.LOSE)
        return [lost, *self._new_round(now)]

    def _reorder(self, worker: str, *, is_first: bool) -> None:
        """Ask a lost worker last, or, if only its session was lost and it has the output, among the
        first: if it is there it need send the rest only, and if not its place costs no time.
        """
        if worker in self._order:
            self._order.remove(worker)
            self._order.insert(0 if is_first else len(self._order), worker)
        if not is_first:
            self._suspects.add(worker)

    def _drop(self, peer: str, why: str, now: float) -> list[Effect]:
        """Never ask this peer about this job again."""
        if peer in self._order:
            self._order.remove(peer)
        if self.state.is_final:
            return []
        if peer == self.worker:
            stop = Send(peer, Cancel(self.terms.job_id, self.fence))
            return [stop, *self._move_on(why, now, Sign.FAULT)]
        if peer in self._offers:
            return self._refused(peer, self._note(UNREACHABLE, why), now)
        return []

    def _end(self, event: JobEvent) -> list[Effect]:
        """End the job here, and free whoever holds something of it."""
        self._life.step(event)
        job_id, fence = self.terms.job_id, self.fence
        effects: list[Effect] = [Send(peer, Release(job_id, fence)) for peer in self._offers]
        if self.worker is not None:
            self.signs.append((self.worker, Sign.ENDED))
            effects.append(Send(self.worker, Cancel(job_id, fence)))
        self._offers.clear()
        return effects
