"""The life of a job as a table, and what both of its machines ask of the world.

::

    NEW -> OFFERED -> LEASED -> RUNNING -> DONE | FAILED | CANCELLED | EXPIRED

Submitter and worker each follow this table for a job that they share, with ``SubmitterJob`` and
``WorkerJob``. They are sans-IO: messages, losses and the time go in; a list of effects comes out,
to be carried out in order. Nothing else assigns a state.

Three rules make "at least once executed, at most once accepted" hold:

- The submitter issues fences. Each attempt has a higher one, and it takes a result only from the
worker and fence that it accepted last.
- The worker keeps an outcome until it is acknowledged, so that an attempt whose session was lost is
found again and not repeated.
- The worker drops nothing on a message with an old fence, and starts nothing on one either.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.job import FromSubmitter, FromWorker

JobKey = tuple[str, bytes]
"""(submitter's peer id, job id): what a worker knows a job by. One submitter can't touch another's
jobs.
"""


class JobState(Enum):
    """Where a job stands, for one of its two sides."""

    NEW = "new"
    OFFERED = "offered"
    LEASED = "leased"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing can change any more."""
        return self in _FINAL


class JobEvent(Enum):
    """What moves a job."""

    OFFER = auto()
    """It was put to workers; it came from a submitter."""
    LEASE = auto()
    """A lease was chosen; a lease was given."""
    START = auto()
    """The worker was heard to run it; the input is whole and the runner has it."""
    FINISH = auto()
    """Its output is whole."""
    FAIL = auto()
    """It failed, or nobody takes it."""
    LOSE = auto()
    """The lease is void: lost with its worker, or replaced by an offer with a later fence."""
    CANCEL = auto()
    """Someone wants it no more."""
    EXPIRE = auto()
    """Its time is up."""


TRANSITIONS: Final[dict[JobState, dict[JobEvent, JobState]]] = {
    JobState.NEW: {
        JobEvent.OFFER: JobState.OFFERED,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.EXPIRE: JobState.EXPIRED,
    },
    JobState.OFFERED: {
        JobEvent.LEASE: JobState.LEASED,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.EXPIRE: JobState.EXPIRED,
    },
    JobState.LEASED: {
        JobEvent.START: JobState.RUNNING,
        JobEvent.LOSE: JobState.OFFERED,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.EXPIRE: JobState.EXPIRED,
    },
    JobState.RUNNING: {
        JobEvent.FINISH: JobState.DONE,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.LOSE: JobState.OFFERED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.EXPIRE: JobState.EXPIRED,
    },
    JobState.DONE: {},
    JobState.FAILED: {},
    JobState.CANCELLED: {},
    JobState.EXPIRED: {},
}
"""A missing key is an illegal step."""

# Asked several times a message. A tuple is searched by identity; a set or the table would compute
# an Enum's hash, in Python.
_FINAL: Final = tuple(state for state, steps in TRANSITIONS.items() if not steps)


class Lifecycle:
    """A job's state, moved by the table only."""

    def __init__(self) -> None:
        self._state = JobState.NEW

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._state

    def step(self, event: JobEvent) -> None:
        """Move by ``event``; raise ``LocalProtocolError`` and change nothing when the table has no
        such step.
        """
        following = TRANSITIONS[self._state].get(event)
        if following is None:
            raise LocalProtocolError(
                f"a job that is {self._state.value} has no step {event.name}",
                state=self._state.value,
                event=event.name,
            )
        self._state = following


class Send(msgspec.Struct, frozen=True):
    """Effect: send this after what was sent before; drop it if the session is gone."""

    peer: str
    message: FromSubmitter | FromWorker


class SendInput(msgspec.Struct, frozen=True):
    """Effect of the submitter: stream the input to its worker under this fence, from this piece
    on.
    """

    peer: str
    fence: int
    first_piece: int = 0


class Grown(msgspec.Struct, frozen=True):
    """Effect of the submitter: the output has come this much further; with ``is_anew``, everything
    that was said of it before is void, for another worker computes it in another way.
    """

    body: bytes
    is_anew: bool = False


class Violation(msgspec.Struct, frozen=True):
    """Effect of the submitter: a worker broke the protocol; report it. The job moves on."""

    peer: str
    error: RemoteProtocolError


class Late(msgspec.Struct, frozen=True):
    """Effect of the submitter: a result came under a fence that is past. Record it; it is never
    returned.
    """

    peer: str
    fence: int
    output_cid: bytes
    record_cid: bytes


class Lost(msgspec.Struct, frozen=True):
    """Effect of the submitter: the attempt at this worker is lost; the job moves on or ends."""

    peer: str
    fence: int
    why: str


class Start(msgspec.Struct, frozen=True):
    """Effect of the worker: run this job."""

    key: JobKey


class Stop(msgspec.Struct, frozen=True):
    """Effect of the worker: stop running this job; its result is wanted no more."""

    key: JobKey


class Deliver(msgspec.Struct, frozen=True):
    """Effect of the worker: send this job's kept outcome under this fence, from this piece of its
    output on.
    """

    key: JobKey
    fence: int
    first_piece: int = 0


Effect = Send | SendInput | Grown | Violation | Late | Lost | Start | Stop | Deliver
