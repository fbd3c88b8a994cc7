"""Carries the jobs that this node has promised to do, whatever becomes of clients and daemons.

A kept job is submitted like any other. When nobody takes it, or it was lost and nobody else takes
it, it waits and is submitted again until its time is up or it was lost for the third time; when the
daemon stops, the next one goes on with it. Its output is on the disk before its acceptance is, so
that a job that was accepted has its result for ever.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from node.accepted import AcceptedJobs
from node.audience import Audience
from node.errors import NoWorkerError, UnknownError
from node.explanation import Explanation
from node.job import JobResult, JobSpec, Progress, lost, result_of, summary_of
from node.job_log import JobLogs
from node.kept_jobs import JobEnd, KeptJob, KeptJobs, Promise, not_kept
from node.life_steps import RESUMED
from node.on_disk import InThreads, OnDisk
from node.schedule import Schedule
from node.submit import Submitter
from node.submitted_job import Listener
from node.waiting import WAIT_S_MAX, WAIT_S_MIN, Waiting
from peer.control import error_body
from peer.durable import NotWrittenError
from peer.effects import Effects
from peer.journal import JournalError
from protocols.errors import CoveyError, JobFailed, Refused
from protocols.job import DRAINING, OTHER_SPECIFICATION
from protocols.limits import MAX_ATTEMPTS

log = logging.getLogger(__name__)

MAX_CARRIED: Final = 64  # at once; the others wait on the disk, and not with their inputs in memory
WAKE_EVERY_S: Final = 5.0  # at most: in a large mesh somebody says hello all the time
LOG_EVERY_S: Final = 0.25  # a kill costs the log no more; most jobs are over and written at once
TIDY_EVERY_S: Final = 3_600.0

WAITED_OUT: Final = (NoWorkerError, Refused, NotWrittenError, JournalError)
"""Nobody takes the job, or this node stops or has no room on its disk: that may change."""

DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"


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
        self._due = Schedule()
        self._stirred = trio.Event()
        self._begun = trio.Event()
        self._woken_at = -math.inf
        self._logs = JobLogs(kept, self.on_disk)
        self._audiences: dict[bytes, Audience] = {}
        self._waiting = Waiting(effects.rng)
        self._ended: dict[bytes, trio.Event] = {}
        self._running: dict[bytes, trio.CancelScope] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with what an earlier daemon left, and carry jobs until cancelled."""
        for job in await self.on_disk(self.kept.unfinished):
            await self._logs.add(job.spec.job_id, RESUMED, self._effects.now_us())
            await self._resume(job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            nursery.start_soon(self._keep_logs)
            task_status.started()
            while True:
                self._stirred = trio.Event()
                self._start_due(nursery)
                with trio.move_on_at(self._due.next_at if self._has_room() else math.inf):
                    await self._stirred.wait()

    async def submit(self, spec: JobSpec) -> Promise:
        """Promise to do a job: it and its input are on the disk when this returns. The same one
        again changes nothing, unless it ended without a result: then it is tried again.

        Raises ``Refused`` when another job has that id.
        """
        async with self._ending:
            promise = await self.on_disk(lambda: self.kept.keep(spec, self._effects.now_us()))
        if promise is Promise.NEW:
            self._push(spec.job_id, 0.0)
        elif promise is Promise.AGAIN:
            with trio.CancelScope(shield=True):  # it is not over any more: this daemon carries it
                await self._resume(await self.get(spec.job_id))
        return promise

    async def get(self, job_id: bytes) -> KeptJob:
        """Return what was asked for; raises ``UnknownError``, which says so if the job is known
        here and is only not kept.
        """
        try:
            return await self.on_disk(lambda: self.kept.get(job_id))
        except UnknownError:
            if self._submitter.explanation(job_id) or self._accepted.get(job_id):
                raise not_kept(job_id) from None
            raise

    async def wait(self, job_id: bytes) -> JobEnd:
        """Return how a job ended, when it has; raises ``UnknownError``."""
        await self.get(job_id)
        while True:  # for it may be tried again as soon as it has ended
            ended = self._ended.setdefault(job_id, trio.Event())
            if (end := await self.on_disk(lambda: self.kept.ended(job_id))) is not None:
                self._tell_waiting(job_id)
                return end
            await ended.wait()

    async def cancel(self, job_id: bytes) -> JobEnd:
        """End a job that is not over; return how it ended, which may be otherwise. Raises
        ``UnknownError``.
        """
        await self.get(job_id)
        await self._catch_up(job_id)
        error = JobFailed("the job was cancelled", code=CANCELLED)
        await self._end(self._end_of(job_id, CANCELLED, error=_told(error)), job_id)
        if scope := self._running.get(job_id):
            scope.cancel()
        return await self.wait(job_id)

    def progress(self, job_id: bytes) -> Progress | None:
        """Return how far a job is, if it is under way."""
        audience = self._audiences.get(job_id)
        return audience.progress if audience is not None else None

    def attempts(self, job_id: bytes) -> int | None:
        """Return how many attempts there were so far at a job that is not over, if there were."""
        progress = self.progress(job_id)
        return max(progress.attempt if progress else 0, self._waiting.attempts(job_id)) or None

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
        return self._waiting.reason(job_id)

    def wake(self) -> None:
        """A worker is there: try the jobs that wait soon, some of them at once."""
        now = trio.current_time()
        if self._woken_at <= now:
            self._woken_at = max(now, self._woken_at + WAKE_EVERY_S)
        for job_id in self._due.hasten(self._woken_at, MAX_CARRIED):
            self._waiting.hasten(job_id)
        self._stirred.set()

    async def log(self, job_id: bytes) -> list[dict[str, Any]]:
        """Return what happened to a job, also under earlier daemons, up to now."""
        await self._catch_up(job_id)
        return await self.on_disk(lambda: self.kept.log(job_id))

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
        return len(self._running) < MAX_CARRIED

    def _push(self, job_id: bytes, wait_s: float) -> None:
        self._due.put(job_id, trio.current_time() + wait_s)
        self._stirred.set()

    def _start_due(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        while self._has_room() and (job_id := self._due.pop(now)) is not None:
            if job_id in self._running:  # it was ended, and is to be tried again
                self._due.put(job_id, now + WAIT_S_MIN)
                continue
            scope = self._running[job_id] = trio.CancelScope()
            nursery.start_soon(self._carry, job_id, scope)
            self._begun.set()

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
            self._waiting.failed(job_id, CoveyError(str(error), code="node-fault"))
            wait_s = WAIT_S_MAX
        finally:
            del self._running[job_id]
            if wait_s is None:
                self._logs.forget(job_id)
            self._let_go(job_id)
            self._stirred.set()
        if wait_s is not None:
            self._push(job_id, wait_s)

    async def _try(self, job_id: bytes) -> float | None:
        """Submit a job; return after how many seconds to try again, or None when it is over."""
        job = await self.get(job_id)
        left_us = job.deadline_us() - self._effects.now_us()
        if await self.on_disk(lambda: self.kept.ended(job_id)) is not None:
            return None
        taken = await self._taken(job) if job.spec.verify else None
        if left_us <= 0 and taken is None:
            await self._end(self._end_of(job_id, EXPIRED, error=self._expired(job_id)), job_id)
            return None
        try:
            await self._submit(job, max(1, left_us // 1_000), taken)
        except CoveyError as error:
            if _is_waited_out(error):
                return await self._wait(job_id, error, left_us)
            self._waiting.begin(job_id, error.details.get("attempts", 0))
            state = error.code if error.code in (EXPIRED, CANCELLED) else FAILED
            await self._end(self._end_of(job_id, state, error=_told(error)), job_id)
        return None

    async def _submit(self, job: KeptJob, budget_ms: int, taken: JobResult | None) -> None:
        """Have a job done, or what is left to do of one whose result was ``taken`` before."""
        job_id = job.spec.job_id
        content = await self.on_disk(lambda: self.kept.input(job_id))
        spec = replace(job.spec, input=content, budget_ms=budget_ms)

        async def take(result: JobResult) -> None:
            summary = summary_of(spec, result)
            await self.on_disk(lambda: self.kept.take(job_id, result.output, summary))

        earlier = await self._logs.begin(job_id, self._submitter.explanation(job_id))
        if len(earlier.losses) >= MAX_ATTEMPTS:  # a crash came between the last one and its end
            raise lost(earlier.losses, may_go_on=False, attempts=earlier.attempts)
        if self._waiting.is_spoilt(job_id) and not self._submitter.may_retry():
            raise Refused("too many jobs fail at their workers", code="retry-budget")
        self._waiting.begin(job_id, earlier.attempts)
        try:
            if taken is None:
                listener = self._audience(job_id).listener
                result = await self._submitter.run(spec, listener, take, earlier)
            else:
                result = await self._submitter.verified(spec, taken)
        finally:
            with trio.CancelScope(shield=True):
                await self._catch_up(job_id)
        if result.verification is not None and result.verification.is_interrupted:
            raise Refused("this node is stopping: the next one verifies", code=DRAINING)
        summary = summary_of(spec, result)
        await self._end(self._end_of(job_id, DONE, result=summary), job_id)

    async def _wait(self, job_id: bytes, error: CoveyError, left_us: int) -> float:
        wait_s = self._waiting.wait(job_id, error)
        await self._logs.waits(job_id, error.message, self._effects.now_us())
        return min(wait_s, left_us / 1e6)

    async def _resume(self, job: KeptJob) -> None:
        """Begin with a job, or go on with it; what was accepted before needs only be said."""
        job_id = job.spec.job_id
        taken = await self._taken_summary(job_id)
        if taken is not None and not job.spec.verify:
            await self._end(self._end_of(job_id, DONE, result=taken), job_id)
            return
        earlier = await self._logs.begin(job_id, None)
        self._waiting.begin(job_id, earlier.attempts)
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

    async def _end(self, end: JobEnd, job_id: bytes) -> None:
        with trio.CancelScope(shield=True):
            async with self._ending:  # the first word stands
                await self.on_disk(lambda: self.kept.end(job_id, end))
        self._waiting.forget(job_id)
        self._tell_waiting(job_id)

    def _tell_waiting(self, job_id: bytes) -> None:
        """The end of a job is on the disk: have whoever waits look there, and keep nothing."""
        if (event := self._ended.pop(job_id, None)) is not None:
            event.set()

    def _end_of(
        self,
        job_id: bytes,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> JobEnd:
        why = self._submitter.explanation(job_id)
        attempts = result["attempts"] if result else self.attempts(job_id)
        told = why.told() if why else None
        return JobEnd(state, self._effects.now_us(), result, error, told, attempts)

    def _expired(self, job_id: bytes) -> dict[str, Any]:
        waited = self._waiting.reason(job_id)
        told = f": {waited.message}" if waited else ""
        return _told(JobFailed(f"the job's time ran out{told}", code=EXPIRED))

    async def _catch_up(self, *job_ids: bytes) -> None:
        """Write down what happened to those of these jobs that are under way."""
        under_way = [job_id for job_id in job_ids if job_id in self._running]
        explanations = [self._submitter.explanation(job_id) for job_id in under_way]
        try:
            await self._logs.catch_up(each for each in explanations if each)
        except OSError as error:
            log.warning("job's log not written", extra={"reason": error.strerror})

    async def _keep_logs(self) -> None:
        """Write down what happens to jobs while they are under way."""
        while True:
            await self._begun.wait()
            await trio.sleep(LOG_EVERY_S)
            if not self._running:
                self._begun = trio.Event()
            await self._catch_up(*self._running)

    async def _tidy(self) -> None:
        while True:
            await self.on_disk(partial(self.kept.forget_old, self._effects.now_us()))
            await trio.sleep(TIDY_EVERY_S)


def _is_waited_out(error: CoveyError) -> bool:
    """Whether one more submission may have another end."""
    may_go_on = error.details.get("may_go_on", isinstance(error, WAITED_OUT))
    return may_go_on and error.code != OTHER_SPECIFICATION


def _told(error: Exception) -> dict[str, Any]:
    known = error if isinstance(error, CoveyError) else CoveyError(str(error), code="node-fault")
    return error_body(known)["error"]
