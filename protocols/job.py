"""What two nodes say to each other about jobs over ``/covey/session/1``.

Every message but the hello names one job and one fence, and goes in one direction only:
``FromSubmitter`` or ``FromWorker``. One session therefore carries jobs both ways without confusing
them. Messages check themselves on creation, so an invalid one can't exist; fields are append-only.
See docs/protocols/session.md.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import msgspec

from protocols.cid import is_strict
from protocols.job_checks import check, check_code, check_facts, check_held, check_piece, is_kind
from protocols.limits import (
    MAX_BUDGET_MS,
    MAX_CODE_CHARS,
    MAX_FACT_CHARS,
    MAX_FACTS,
    MAX_FENCE,
    MAX_INLINE_PIECE_BYTES,
    MAX_ITEMS,
    MAX_JOB_OUTPUT_BYTES,
    MAX_NAME_CHARS,
)
from protocols.wire import MessageCodec

SESSION_VERSION: Final = 1

JOB_ID_BYTES: Final = 16
SALT_BYTES: Final = 16
_NO_JOB_ID: Final = f"job_id is not {JOB_ID_BYTES} bytes"
_NO_SALT: Final = f"a salt is not {SALT_BYTES} bytes"

Fact = str | int | float | bool
"""What free-form maps on the wire hold: no nesting, so that size and depth stay bounded."""

BUSY: Final = "busy"
DRAINING: Final = "draining"
EXPIRED: Final = "expired"
LEASE_OVER: Final = "lease-over"
NO_ANSWER: Final = "no-answer"
OTHER_SPECIFICATION: Final = "other-specification"
STALE_FENCE: Final = "stale-fence"
TOO_BIG: Final = "too-big"
TOO_LITTLE_MEMORY: Final = "too-little-memory"
UNAUTHORISED: Final = "unauthorised"
UNKNOWN_KIND: Final = "unknown-kind"
UNKNOWN_MODEL: Final = "unknown-model"
UNKNOWN_PRECISION: Final = "unknown-precision"
UNMET_REQUIREMENT: Final = "unmet-requirement"
UNREACHABLE: Final = "unreachable"
WRONG_COMMITMENT: Final = "wrong-commitment"
"""Why a worker says no; ``no-answer`` and ``unreachable`` are what a submitter notes by itself.
Receivers take unknown codes as a plain no.
"""


class SessionHello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message in both directions: both then speak the lower version and the features that
    both named.
    """

    version: int
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.version >= 1, "version is below 1")
        check(len(self.features) <= MAX_FACTS, "too many features")
        check(all(len(f) <= MAX_CODE_CHARS for f in self.features), "a feature is too long")


class JobMessage(msgspec.Struct, frozen=True, array_like=True):
    """What all of them start with: which job, and which of its attempts."""

    job_id: bytes
    fence: int

    def __post_init__(self) -> None:
        check(len(self.job_id) == JOB_ID_BYTES, _NO_JOB_ID)
        check(1 <= self.fence <= MAX_FENCE, "fence is out of range")


class Offer(JobMessage, frozen=True, array_like=True, tag=2):
    """Would you run this? Says everything about the job but its input; ``budget_ms`` is what
    remains of its time.

    With ``input``, all of a small one, it is offer, acceptance and input in one: run this, unless
    you refuse.
    """

    kind: str
    model: str
    precision: str
    items: int
    size_bytes: int
    budget_ms: int
    input_cid: bytes
    input_salt: bytes
    output_salt: bytes
    requirements: dict[str, Fact] = {}
    input: bytes | None = None
    stream: bool = True  # for submitters that do not say it, and may want it
    """Whether the output is to be sent while it comes into being."""
    tokens: int = 0
    """How many it may write, of kinds whose work grows with them and not with the items."""
    takes_output: bool = False
    """Whether a small output may come with ``Done``, where it is not streamed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (self.kind, self.precision):
            check(0 < len(name) <= MAX_CODE_CHARS, "kind or precision is too long")
        check(is_kind(self.kind), "kind is malformed")
        check(0 < len(self.model) <= MAX_NAME_CHARS, "model is too long")
        check(0 <= self.items <= MAX_ITEMS, "items is out of range")
        check(0 <= self.tokens <= MAX_ITEMS, "tokens is out of range")
        check(0 <= self.size_bytes <= MAX_FENCE, "size is out of range")
        check(0 <= self.budget_ms <= MAX_BUDGET_MS, "budget is out of range")
        check(is_strict(self.input_cid), "input_cid is not a CID")
        for salt in (self.input_salt, self.output_salt):
            check(len(salt) == SALT_BYTES, _NO_SALT)
        check_facts(self.requirements, "requirements")
        if self.input is not None:
            check(len(self.input) == self.size_bytes, "input is not of size_bytes")
            check(self.size_bytes <= MAX_INLINE_PIECE_BYTES, "input is too big for an offer")


class Lease(JobMessage, frozen=True, array_like=True, tag=3):
    """Yes, for now: done in about ``eta_ms`` if accepted within 2 s; then silence for ``ttl_ms``
    means that it is lost.

    ``needs_input`` is false when the worker has it already: an attempt goes on or an outcome is
    kept. Of an input that it has in part it needs what follows the first ``held_pieces``, whose
    running digest is ``held_digest``.
    """

    eta_ms: int
    ttl_ms: int
    needs_input: bool = True
    held_pieces: int = 0
    held_digest: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_held(self.held_pieces, self.held_digest)
        check(0 <= self.eta_ms <= MAX_BUDGET_MS, "eta is out of range")
        check(0 < self.ttl_ms <= MAX_BUDGET_MS, "ttl is out of range")


class Refuse(JobMessage, frozen=True, array_like=True, tag=4):
    """No, and why. ``retry_after_ms`` when asking again makes sense, ``seen_fence`` with code
    ``stale-fence``.
    """

    code: str
    reason: str
    retry_after_ms: int = 0
    seen_fence: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_code(self.code, self.reason)
        check(0 <= self.retry_after_ms <= MAX_BUDGET_MS, "retry_after is out of range")
        check(0 <= self.seen_fence <= MAX_FENCE, "seen_fence is out of range")


class Accept(JobMessage, frozen=True, array_like=True, tag=5):
    """Run it: exactly one of the workers that leased gets this, and the input after it if it needs
    it.

    The submitter has the first ``held_pieces`` of an output from it already, whose running digest
    is ``held_digest``: if its output begins so, it sends what follows, else all of it.
    """

    held_pieces: int = 0
    held_digest: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_held(self.held_pieces, self.held_digest)


class Input(JobMessage, frozen=True, array_like=True, tag=6):
    """One piece of the input; ``digest`` is sha256 of the salt and all content so far."""

    index: int
    body: bytes
    digest: bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_piece(self.index, self.body, self.digest)


class Release(JobMessage, frozen=True, array_like=True, tag=7):
    """You need not hold the lease: another worker was chosen. Does nothing to an accepted job."""


class Renew(JobMessage, frozen=True, array_like=True, tag=8):
    """I am alive and at it: renews the lease and tells progress."""

    items_done: int
    items_total: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.items_done <= self.items_total <= MAX_ITEMS, "progress is out of range")


class Chunk(JobMessage, frozen=True, array_like=True, tag=9):
    """One piece of the output, as ``Input`` is of the input."""

    index: int
    body: bytes
    digest: bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_piece(self.index, self.body, self.digest)


class Done(JobMessage, frozen=True, array_like=True, tag=10):
    """All of the output was sent: its commitment, the worker's record of the run, and how it ran.

    The record is in the worker's journal; its bundle may come later. With ``output``, all of a
    small one, it is that and its only piece in one, for offers that take it so.
    """

    output_cid: bytes
    size_bytes: int
    record_cid: bytes
    timings: dict[str, float] = {}
    execution: dict[str, Fact] = {}
    output: bytes | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None:
            check(len(self.output) == self.size_bytes, "output is not of size_bytes")
            check(self.size_bytes <= MAX_INLINE_PIECE_BYTES, "output is too big to come so")
        for cid in (self.output_cid, self.record_cid):
            check(is_strict(cid), "output_cid or record_cid is not a CID")
        check(0 <= self.size_bytes <= MAX_JOB_OUTPUT_BYTES, "size is out of range")
        check_facts(self.timings, "timings")
        check_facts(self.execution, "execution")


class Failed(JobMessage, frozen=True, array_like=True, tag=11):
    """The job failed here. If ``is_worker_fault``, another worker may well do it; else it would
    fail there too.

    The worker has recorded the attempt and reported the fault: the submitter must not report it
    again.
    """

    code: str
    reason: str
    is_worker_fault: bool
    record_cid: bytes = b""
    report_cid: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_code(self.code, self.reason)
        for cid in (self.record_cid, self.report_cid):
            check(not cid or is_strict(cid), "record_cid or report_cid is not a CID")


class Cancel(JobMessage, frozen=True, array_like=True, tag=12):
    """Stop it and forget it; nothing is answered."""


class Ack(JobMessage, frozen=True, array_like=True, tag=13):
    """The outcome is durable here: the worker need not keep it."""


FromSubmitter = Offer | Accept | Input | Release | Cancel | Ack
FromWorker = Lease | Refuse | Renew | Chunk | Done | Failed
Message = SessionHello | FromSubmitter | FromWorker

CODEC: Final[MessageCodec[Message]] = MessageCodec(Message)


class Terms(msgspec.Struct, frozen=True):
    """What a job is, whoever runs it: offers with equal terms are of one job."""

    job_id: bytes
    kind: str
    model: str
    precision: str
    items: int
    size_bytes: int
    input_cid: bytes
    input_salt: bytes
    output_salt: bytes
    requirements: dict[str, Fact] = {}
    tokens: int = 0

    @property
    def units(self) -> int:
        """What the work grows with besides the input's size, and what progress counts: tokens to
        write, or else items.
        """
        return self.tokens or self.items

    def offer(
        self, fence: int, budget_ms: int, content: bytes | None = None, *, stream: bool = True
    ) -> Offer:
        """Return the offer of one attempt at this job, with its input if that shall go along."""
        return Offer(
            job_id=self.job_id,
            fence=fence,
            kind=self.kind,
            model=self.model,
            precision=self.precision,
            items=self.items,
            size_bytes=self.size_bytes,
            budget_ms=budget_ms,
            input_cid=self.input_cid,
            input_salt=self.input_salt,
            output_salt=self.output_salt,
            requirements=self.requirements,
            input=content,
            stream=stream,
            tokens=self.tokens,
            takes_output=not stream,
        )

    @classmethod
    def of(cls, offer: Offer) -> Terms:
        """Return what an offer says about its job."""
        return cls(
            job_id=offer.job_id,
            kind=offer.kind,
            model=offer.model,
            precision=offer.precision,
            items=offer.items,
            size_bytes=offer.size_bytes,
            input_cid=offer.input_cid,
            input_salt=offer.input_salt,
            output_salt=offer.output_salt,
            requirements=offer.requirements,
            tokens=offer.tokens,
        )


def facts_of(values: dict[str, Any]) -> dict[str, Fact]:
    """Return what of ``values`` fits a message's free-form map, cut to its limits; the rest is left
    out.
    """
    kept: dict[str, Fact] = {}
    for key, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            continue
        if isinstance(value, (int, float)):
            kept[key] = value
        elif value is not None:
            kept[key] = str(value)[:MAX_FACT_CHARS]
    fitting = ((k, v) for k, v in kept.items() if len(k) <= MAX_CODE_CHARS)
    return dict(list(fitting)[:MAX_FACTS])


def timings_of(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers among ``values`` that fit a message's timings."""
    return {key: float(v) for key, v in facts_of(values).items() if isinstance(v, (int, float))}
