"""Carries the jobs that this node has promised to do, whatever becomes of clients and daemons.

A kept job is submitted like any other. When nobody takes it, it waits and is submitted again until
its time is up; when the daemon stops, the next one goes on with it. Its output is on the disk
before its acceptance is, so that a job that was accepted has its result for ever.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import trio

from node.accepted import AcceptedJobs
from node.audience import Audience
from node.errors import NoWorkerError
from node.explanation import Explanation, moment
from node.job import JobResult, JobSpec, Progress, result_of, summary_of
from node.kept_jobs import JobEnd, KeptJob, KeptJobs
from node.submit import Submitter
from node.submitted_job import Listener
from peer.control import error_body
from peer.durable import NotWrittenError
from peer.effects import Effects
from peer.journal import JournalError
from protocols.errors import CoveyError, JobFailed, Refused
from protocols.job import DRAINING, OTHER_SPECIFICATION

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_CARRIED: Final = 64  # at once; the others wait on the disk, and not with their inputs in memory
WAIT_S_MIN: Final = 1.0
WAIT_S_MAX: Final = 30.0  # a worker that comes is used within half a minute
TIDY_EVERY_S: Final = 3_600.0

WAITED_OUT: Final = (NoWorkerError, Refused, NotWrittenError, JournalError)
"""Nobody takes the job, or this node stops or has no room on its disk: that may change."""
FINAL: Final = ("worker-lost", OTHER_SPECIFICATION)
"""Codes among these that say something about the job itself."""

DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"


class OnDisk(Protocol):
    """Runs what waits for the disk somewhere, and returns what it returned."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Run ``call``."""
        ...


class InThreads:
    """Lets the loop go on meanwhile; a virtual clock would run on, too."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(4)

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Run ``call`` in a thread."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter)


class Carrier:
    """The kept jobs of one node. ``run`` must run for anything but reading to happen."""

    def __init__(
        self,
        kept: KeptJobs,
        submitter: Submitter,
        accepted: AcceptedJobs,
        effects: Effects,
        on_disk: OnDisk | None = None,
    ) -> None:
        self.kept = kept
        self.on_disk = on_disk or InThreads()
        self._submitter = submitter
        self._accepted = accepted
        self._effects = effects
        self._ending = trio.Lock()
        self._due: list[tuple[float, bytes]] = []
        self._stirred = trio.Event()
        self._audiences: dict[bytes, Audience] = {}
        self._waits_s: dict[bytes, float] = {}
        self._reasons: dict[bytes, CoveyError] = {}
        """Why jobs that are not over are waiting."""
        self._ended: dict[bytes, trio.Event] = {}
        self._running: dict[bytes, trio.CancelScope] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with what an earlier daemon left, and carry jobs until cancelled."""
        for job in await self.on_disk(self.kept.unfinished):
            await self._resume(job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            task_status.started()
            while True:
                self._stirred = trio.Event()
                self._start_due(nursery)
                with trio.move_on_at(self._due[0][0] if self._has_room() else math.inf):
                    await self._stirred.wait()

    async def submit(self, spec: JobSpec) -> bool:
        """Promise to do a job: it and its input are on the disk when this returns. Tell whether it
        is new; the same one again changes nothing.

        Raises ``Refused`` when another job has that id.
        """
        is_new = await self.on_disk(lambda: self.kept.keep(spec, self._effects.now_us()))
        if is_new:
            self._push(spec.job_id, 0.0)
        return is_new

    async def wait(self, job_id: bytes) -> JobEnd:
        """Return how a job ended, when it has; raises ``UnknownError``."""
        await self.on_disk(lambda: self.kept.get(job_id))
        ended = self._ended.setdefault(job_id, trio.Event())
        while (end := await self.on_disk(lambda: self.kept.ended(job_id))) is None:
            await ended.wait()
        return end

    async def cancel(self, job_id: bytes) -> JobEnd:
        """End a job that is not over; return how it ended, which may be otherwise. Raises
        ``UnknownError``.
        """
        await self.on_disk(lambda: self.kept.get(job_id))
        told = error_body(JobFailed("the job was cancelled", code="cancelled"))["error"]
        await self._end(job_id, self._end_of(CANCELLED, error=told, job_id=job_id))
        if scope := self._running.get(job_id):
            scope.cancel()
        return await self.wait(job_id)

    def progress(self, job_id: bytes) -> Progress | None:
        """Return how far a job is, if it is under way."""
        audience = self._audiences.get(job_id)
        return audience.progress if audience else None

    @contextmanager
    def following(self, job_id: bytes, listener: Listener) -> Generator[None]:
        """Have ``listener`` told what becomes of a job that is not over, while the block runs; its
        result is waited for with ``wait``.
        """
        audience = self._audience(job_id)
        audience.join(listener)
        try:
            yield
        finally:
            audience.leave(listener)
            if job_id not in self._running:
                self._let_go(job_id)

    def reason(self, job_id: bytes) -> CoveyError | None:
        """Return what a job that is not over waits for, if it does."""
        return self._reasons.get(job_id)

    def explanation(self, job_id: bytes) -> Explanation | None:
        """Return why a job of this daemon's life went where it went."""
        return self._submitter.explanation(job_id)

    def explained(self) -> list[bytes]:
        """Return the jobs, kept or not, that ``explanation`` knows."""
        return self._submitter.explained()

    # Carrying

    def _audience(self, job_id: bytes) -> Audience:
        return self._audiences.setdefault(job_id, Audience(streams=True))

    def _let_go(self, job_id: bytes) -> None:
        """The job is not under way: keep only those who wait for it to be again."""
        audience = self._audiences.get(job_id)
        if audience is not None:
            audience.pause()
            if not audience:
                del self._audiences[job_id]

    def _has_room(self) -> bool:
        return bool(self._due) and len(self._running) < MAX_CARRIED

    def _push(self, job_id: bytes, wait_s: float) -> None:
        heapq.heappush(self._due, (trio.current_time() + wait_s, job_id))
        self._stirred.set()

    def _start_due(self, nursery: trio.Nursery) -> None:
        while self._has_room() and self._due[0][0] <= trio.current_time():
            _, job_id = heapq.heappop(self._due)
            scope = self._running[job_id] = trio.CancelScope()
            nursery.start_soon(self._carry, job_id, scope)

    async def _carry(self, job_id: bytes, scope: trio.CancelScope) -> None:
        """Try a job once: the boundary of what goes wrong with it."""
        wait_s: float | None = None
        try:
            with scope:
                wait_s = await self._try(job_id)
        except (NotWrittenError, OSError) as error:  # how it ended is said when there is room
            log.warning("job's end not written", extra={"reason": str(error)})
            wait_s = WAIT_S_MAX
        except Exception as error:  # the boundary of a job: nothing it does ends the node
            log.exception("kept job failed", extra={"job": job_id.hex()})
            self._reasons[job_id] = CoveyError(str(error), code="node-fault")
            wait_s = WAIT_S_MAX
        finally:
            del self._running[job_id]
            self._let_go(job_id)
            self._stirred.set()
        if wait_s is not None:
            self._push(job_id, wait_s)

    async def _try(self, job_id: bytes) -> float | None:
        """Submit a job; return after how many seconds to try again, or None when it is over."""
        job = await self.on_disk(lambda: self.kept.get(job_id))
        left_us = job.deadline_us() - self._effects.now_us()
        if await self.on_disk(lambda: self.kept.ended(job_id)) is not None:
            return None
        taken = await self._taken(job) if job.spec.verify else None
        if left_us <= 0 and taken is None:
            await self._end(
                job_id, self._end_of(EXPIRED, error=self._expired(job_id), job_id=job_id)
            )
            return None
        try:
            await self._submit(job, max(1, left_us // 1_000), taken)
        except CoveyError as error:
            if isinstance(error, WAITED_OUT) and error.code not in FINAL:
                return self._wait(job_id, error, left_us)
            state = error.code if error.code in (EXPIRED, CANCELLED) else FAILED
            await self._end(job_id, self._end_of(state, error=_told(error), job_id=job_id))
        return None

    async def _submit(self, job: KeptJob, budget_ms: int, taken: JobResult | None) -> None:
        """Have a job done, or what is left to do of one whose result was ``taken`` before."""
        job_id = job.spec.job_id
        content = await self.on_disk(lambda: self.kept.input(job_id))
        spec = replace(job.spec, input=content, budget_ms=budget_ms)

        async def take(result: JobResult) -> None:
            summary = summary_of(spec, result)
            await self.on_disk(lambda: self.kept.take(job_id, result.output, summary))

        self._reasons.pop(job_id, None)
        try:
            if taken is None:
                result = await self._submitter.run(spec, self._audience(job_id).listener, take)
            else:
                result = await self._submitter.verified(spec, taken)
        finally:
            await self._write_log(job_id)
        if result.verification is not None and result.verification.is_interrupted:
            raise Refused("this node is stopping: the next one verifies", code=DRAINING)
        summary = summary_of(spec, result)
        await self._end(job_id, self._end_of(DONE, result=summary, job_id=job_id))

    def _wait(self, job_id: bytes, error: CoveyError, left_us: int) -> float:
        self._reasons[job_id] = error
        wait_s = min(self._waits_s.get(job_id, WAIT_S_MIN / 2) * 2, WAIT_S_MAX)
        self._waits_s[job_id] = wait_s
        return min(wait_s * self._effects.rng.uniform(0.5, 1.0), left_us / 1e6)

    async def _resume(self, job: KeptJob) -> None:
        """Go on with a job of an earlier daemon; what that accepted needs only be said."""
        job_id = job.spec.job_id
        taken = await self._taken_summary(job_id)
        if taken is not None and not job.spec.verify:
            await self._end(job_id, self._end_of(DONE, result=taken))
            return
        step = {"at": moment(self._effects.now_us()), "what": "resumed after a restart"}
        await self.on_disk(lambda: self.kept.add_to_log(job_id, [step]))
        self._push(job_id, 0.0)

    async def _taken(self, job: KeptJob) -> JobResult | None:
        """Return a job's result if it was accepted already."""
        job_id = job.spec.job_id
        taken = await self._taken_summary(job_id)
        if taken is None:
            return None
        return result_of(taken, await self.on_disk(lambda: self.kept.output(job_id)))

    async def _taken_summary(self, job_id: bytes) -> dict[str, Any] | None:
        past = self._accepted.get(job_id)
        taken = await self.on_disk(lambda: self.kept.taken(job_id))
        if past is None or taken is None or taken["fence"] != past.fence:
            return None
        return {**taken, "accepted_cid": str(past.cid)}

    async def _end(self, job_id: bytes, end: JobEnd) -> None:
        with trio.CancelScope(shield=True):
            async with self._ending:  # the first word stands
                await self.on_disk(lambda: self.kept.end(job_id, end))
        self._reasons.pop(job_id, None)
        self._waits_s.pop(job_id, None)
        if (event := self._ended.pop(job_id, None)) is not None:
            event.set()

    def _end_of(
        self,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        job_id: bytes = b"",
    ) -> JobEnd:
        why = self._submitter.explanation(job_id)
        return JobEnd(state, self._effects.now_us(), result, error, why.told() if why else None)

    def _expired(self, job_id: bytes) -> dict[str, Any]:
        waited = self._reasons.get(job_id)
        told = f": {waited.message}" if waited else ""
        return _told(JobFailed(f"the job's time ran out{told}", code=EXPIRED))

    async def _write_log(self, job_id: bytes) -> None:
        why = self._submitter.explanation(job_id)
        steps: list[dict[str, Any]] = why.told()["steps"] if why else []
        with trio.CancelScope(shield=True):
            try:
                await self.on_disk(lambda: self.kept.add_to_log(job_id, steps))
            except OSError as error:
                log.warning("job's log not written", extra={"reason": error.strerror})

    async def _tidy(self) -> None:
        while True:
            await self.on_disk(partial(self.kept.forget_old, self._effects.now_us()))
            await trio.sleep(TIDY_EVERY_S)


def _told(error: Exception) -> dict[str, Any]:
    known = error if isinstance(error, CoveyError) else CoveyError(str(error), code="node-fault")
    return error_body(known)["error"]
