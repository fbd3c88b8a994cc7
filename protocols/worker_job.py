"""One job as its worker sees it, and what is kept of it: see ``protocols.worker_jobs`` for what
happens to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from protocols.job import Done, Failed, Terms
from protocols.lease import LeaseClock
from protocols.pieces import NOTHING, Growing, Held, Incoming, Outgoing
from protocols.session import Deliver, JobKey, JobState, Lifecycle

NEVER: Final = float("inf")

OUTCOME_DROPPED: Final = "outcome-dropped"
"""The code of a failure of a worker that had the outcome, and keeps it no longer."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Admission's yes: how long the job itself takes here, and when it would be done."""

    estimate_s: float
    eta_ms: int


class Leased(NamedTuple):
    """A job that was promised room and has not begun."""

    submitter: str
    terms: Terms
    estimate_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker has taken on: jobs in all, those of the submitter who asks, which of them have
    not begun, and the size of their inputs in all and of that submitter.
    """

    jobs: int
    jobs_of_submitter: int
    leased: tuple[Leased, ...] = ()
    input_bytes: int = 0
    input_bytes_of_submitter: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``Done`` with its output, or ``Failed`` without; the fence is put in on
    delivery.
    """

    message: Done | Failed
    output: Outgoing | None = None

    @property
    def size_bytes(self) -> int:
        """What keeping it costs."""
        return len(self.output.content) if self.output else 0

    def final_message(self, fence: int, *, has_output: bool = False) -> Done | Failed:
        """Return the message that ends the job under ``fence``, with its small output if it
        ``has_output``, which then is sent in no other way.
        """
        message = self.message
        if isinstance(message, Failed) or self.output is None:
            is_same, changes = message.fence == fence, {}
        else:
            is_same = message.fence == fence and (message.output is not None) == has_output
            changes = {"output": self.output.content if has_output else None}
        return message if is_same else msgspec.structs.replace(message, fence=fence, **changes)


@dataclass(slots=True, eq=False)
class WorkerJob:
    """One job here."""

    submitter: str
    terms: Terms
    fence: int
    estimate_s: float
    deadline: float
    lease: LeaseClock
    input: Incoming
    life: Lifecycle = field(default_factory=Lifecycle)
    progress: tuple[int, int] = (0, 0)
    is_streamed: bool = True
    """Whether its submitter wants to see its output grow, under this fence."""
    takes_output: bool = False
    """Whether its submitter takes a small output with ``Done``."""
    grown: Growing | None = None
    """What has come of an output that comes into being piece by piece."""
    pieces_sent: int = 0
    """Of it, under this fence, or that its submitter has already."""
    held: Held = NOTHING
    """What its submitter has of an output already."""
    outcome: Outcome | None = None
    orphan_at: float = NEVER
    forget_at: float = NEVER

    def take_input(self) -> bytes:
        """Return the whole input, once: it is not needed here after its run began."""
        content, self.input = self.input.content(), Incoming(b"", 0)
        return content

    def end(self, outcome: Outcome, forget_at: float) -> None:
        """Its run is over: keep how it ended, and nothing twice."""
        self.outcome, self.forget_at = outcome, forget_at
        self.grown = None  # the outcome has all of it, cut alike
        self.input = Incoming(b"", 0)  # a run that failed early has not taken it

    def go_on(self, held: Held) -> None:
        """Its submitter listens from now on, and has so much of an output. What has come of one
        that grows is sent from there, if it begins so.
        """
        self.held = held
        self.pieces_sent = held.pieces if self.grown and self.grown.begins_with(held) else 0

    def deliver(self) -> Deliver:
        """Return the effect that sends the outcome, without what the submitter has of it."""
        output = self.outcome.output if self.outcome else None
        is_held = not self.pieces_sent and output is not None and output.begins_with(self.held)
        return Deliver(self.key, self.fence, self.held.pieces if is_held else self.pieces_sent)

    def is_wanted(self, now: float) -> bool:
        """Whether its submitter takes its outcome in, or was just told that it may."""
        return self.lease.is_accepted or not self.lease.is_over(now)

    def given_up(self) -> Failed:
        """Return what its submitter is told when its outcome is kept no longer."""
        return Failed(
            job_id=self.terms.job_id,
            fence=self.fence,
            code=OUTCOME_DROPPED,
            reason="its outcome was given up: this worker keeps too many, or for too long",
            is_worker_fault=True,
            record_cid=self.outcome.message.record_cid if self.outcome else b"",
        )

    @property
    def key(self) -> JobKey:
        """What the job is known by."""
        return (self.submitter, self.terms.job_id)

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self.life.state

    @property
    def next_deadline(self) -> float:
        """When ``WorkerJobs.tick`` is due for it."""
        if self.state is JobState.LEASED:
            return min(self.lease.ends_at, self.lease.renew_at, self.deadline)
        if self.state is JobState.RUNNING:
            renew_at = self.lease.renew_at if self.lease.is_accepted else NEVER
            return min(renew_at, self.orphan_at, self.deadline)
        return self.forget_at
