"""Has other peers run an accepted job again, compares, and draws the consequences.

The others run it one after the other, each of them excluding all before it, as jobs of their own
with the same input commitment: nothing tells them that they verify. The verdict is on record before
the client hears of it. Peers that are off become one report, and get fewer of our jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import trio

from node.doubts import DISPUTED, OUTVOTED
from node.errors import NoWorkerError, VerificationMismatch
from node.hashing import ASIDE_BYTES
from node.job import JobResult, JobSpec
from node.ledger import JobLedger
from node.needs import AUTO
from node.placement import Placement
from node.profile import PRECISION, profile_of
from node.runner.kinds import kind_named
from node.shortening import shortened
from node.verdict import DIFFERS, UNVERIFIED, Ballot, PeerVerdict, Run, Verification
from peer.capture import About
from protocols.errors import CoveyError, JobFailed
from protocols.job import DRAINING, JOB_ID_BYTES
from protocols.job_checks import CODE
from protocols.keys import PeerId
from protocols.limits import MAX_CODE_CHARS, MAX_TOLD_CHARS

Runs = Callable[[JobSpec], Awaitable[JobResult]]
"""Has one job done, as the submitter does."""

T = TypeVar("T")

log = logging.getLogger(__name__)

_comparing: Final = trio.CapacityLimiter(1)  # it holds two outputs, of up to 128 MiB each


@dataclass(slots=True)
class _Course:
    """How far a verification is."""

    ballot: Ballot
    former: list[PeerId]
    verdicts: list[PeerVerdict] = field(default_factory=list[PeerVerdict])
    runs: list[Run] = field(default_factory=list[Run])
    ended: CoveyError | None = None
    """Why no other peer was asked any more."""


class Verifier:
    """Verifies the results of one submitter."""

    def __init__(self, run: Runs, placement: Placement, ledger: JobLedger) -> None:
        self._run = run
        self._placement = placement
        self._ledger = ledger

    async def verify(self, spec: JobSpec, result: JobResult) -> Verification:
        """Return what ``spec.verify`` other peers make of a result that was accepted; ``budget_ms``
        is the time for all of them. Cancelling leaves the result accepted and unverified.

        Never raises what went wrong with the others: it makes the verdict ``unverified``.
        """
        watch, deadline = self._ledger.stopwatch(), trio.current_time() + spec.budget_ms / 1_000
        kind, first = kind_named(spec.kind), self._run_of(spec, result)
        ballot = Ballot(kind.compare, kind.TOLERANCES, first)
        course = _Course(ballot, [result.worker])
        while len(course.verdicts) < spec.verify and course.ended is None:
            await self._ask_another(spec, result, course, deadline)
        verification = _outcome(spec, course, self._placement.holders(spec.model) - 1)
        with trio.CancelScope(shield=True):
            try:
                cid = await self._ledger.verified(
                    spec, result, (first, *course.runs), verification, watch
                )
                verification = replace(verification, record_cid=cid)
            except (CoveyError, OSError) as error:
                log.warning("verification not recorded", extra={"error": str(error)})
            await self._draw_consequences(spec, verification)
        return verification

    async def _ask_another(
        self, spec: JobSpec, result: JobResult, course: _Course, deadline: float
    ) -> None:
        """Have one more peer run the job, and compare."""
        left_ms = int((deadline - trio.current_time()) * 1_000)
        again = self._again(spec, result, course, max(left_ms, 1))
        try:
            other = await self._run(again)
        except JobFailed as failed:
            worker = failed.details.get("worker")
            if worker is None or worker in course.former:
                course.ended = failed  # its time ran out, or it was cancelled
                return
            reason = shortened(failed.message, MAX_TOLD_CHARS)
            course.verdicts.append(PeerVerdict(worker, UNVERIFIED, reason=reason))
            course.former.append(worker)
        except CoveyError as error:
            course.ended = error
        else:
            run = self._run_of(again, other)
            course.verdicts.append(await _aside(run, lambda: course.ballot.add(run)))
            course.runs.append(run)
            course.former.append(other.worker)

    def _again(self, spec: JobSpec, result: JobResult, course: _Course, left_ms: int) -> JobSpec:
        """Return the same job for somebody else."""
        offer = self._placement.offer_of(result.worker, spec.model)
        return replace(
            spec,
            job_id=self._ledger.effects.token(JOB_ID_BYTES),
            precision=_pinned(spec, result),
            budget_ms=left_ms,
            peer=None,
            verify=0,
            excluded=frozenset(course.former),
            model_cid=bytes(offer.cid) if offer else b"",
        )

    def _run_of(self, spec: JobSpec, result: JobResult) -> Run:
        offer = self._placement.offer_of(result.worker, spec.model)
        return Run(
            peer=result.worker,
            output=result.output,
            output_cid=result.output_cid,
            record_cid=result.record_cid,
            profile=profile_of(result.execution, str(offer.cid) if offer else "", spec.precision),
            declared=offer.tolerances if offer else {},
        )

    async def _draw_consequences(self, spec: JobSpec, verification: Verification) -> None:
        now = trio.current_time()
        for peer in verification.outvoted:
            self._placement.doubt(peer, spec.model, OUTVOTED, now)
        for peer in verification.disputed:
            self._placement.doubt(peer, spec.model, DISPUTED, now)
        if verification.verdict == DIFFERS:
            cid = verification.record_cid
            about = About(
                job_id=spec.job_id.hex(), job_cid=str(cid) if cid else "", model=spec.model
            )
            informed_by = (cid,) if cid else ()
            await self._ledger.report(_mismatch(spec, verification), about, informed_by=informed_by)


def _outcome(spec: JobSpec, course: _Course, others: int) -> Verification:
    reason = _why_fewer(spec, course.ended, others) if course.ended else ""
    outcome = course.ballot.outcome(spec.verify, tuple(course.verdicts), reason)
    is_interrupted = course.ended is not None and course.ended.code == DRAINING
    return replace(outcome, is_interrupted=is_interrupted)


def _why_fewer(spec: JobSpec, ended: CoveyError, others: int) -> str:
    """Say why no more peers ran a job; ``others`` have its model, besides its worker."""
    if isinstance(ended, NoWorkerError) and others < spec.verify:
        some = "1 other peer has" if others == 1 else f"{others} other peers have"
        return f"only {some} this model" if others > 0 else "no other peer has this model"
    return shortened(ended.message, MAX_TOLD_CHARS)


def _pinned(spec: JobSpec, result: JobResult) -> str:
    """Return the precision in which others are to run a job: the one that was asked for, or else
    that in which the first says that it ran.
    """
    stated = str(result.execution.get(PRECISION, AUTO))
    is_word = len(stated) <= MAX_CODE_CHARS and CODE.fullmatch(stated)
    return stated if spec.precision == AUTO and is_word else spec.precision


def _mismatch(spec: JobSpec, verification: Verification) -> VerificationMismatch:
    """The first line is the same for every such fault of a model, so that they are one group."""
    off = ", ".join(verification.outvoted)
    who = f"outvoted: {off}" if off else f"between {', '.join(verification.disputed)}"
    apart = [each.difference for each in verification.peers if each.verdict == DIFFERS]
    return VerificationMismatch(
        f"peers computed different outputs of {spec.kind} with {spec.model}\n"
        f"{who}; differences {apart}, tolerance {verification.tolerance:g}"
    )


async def _aside(run: Run, work: Callable[[], T]) -> T:
    """Compare away from the loop when it is much: a gigabyte takes seconds."""
    if len(run.output) <= ASIDE_BYTES:
        return work()
    return await trio.to_thread.run_sync(work, limiter=_comparing)
