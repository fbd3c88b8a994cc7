"""What happened to the jobs that a node carries, written down as it goes.

People read it, and a job goes on from it: a loss counts also after a restart. It is not synced step
by step, so that a power cut may cost the last ones; a killed daemon loses a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from node.earlier import NOTHING_BEFORE, Earlier
from node.explanation import Explanation
from node.kept_jobs import KeptJobs
from node.life_steps import AGAIN, WAITS, life_step
from node.on_disk import OnDisk
from protocols.job_history import ACCEPTED, FAILED, LOST, JobHistory

DIGITS: Final = re.compile(r"\d+")


def earlier_of(steps: Iterable[dict[str, Any]]) -> Earlier:
    """Return what a job goes on from, by its log: attempts and losses since it was last tried anew,
    and the highest fence of all.
    """
    losses: dict[int, tuple[str, str]] = {}  # by fence: an attempt is lost once
    last_fence = attempts = 0
    for step in steps:
        if step["what"] == AGAIN:
            losses.clear()
            attempts = 0
        attempts += step["what"] == ACCEPTED
        fence = step.get("fence", 0)
        last_fence = max(last_fence, fence)
        if step["what"] in (LOST, FAILED):
            losses[fence] = (step["peer"], str(step["detail"]))
    if not last_fence:
        return NOTHING_BEFORE
    return Earlier(tuple(losses.values()), last_fence, max(attempts, len(losses)))


@dataclass(slots=True)
class _Log:
    """How far the log of one job is written."""

    history: JobHistory = field(default_factory=JobHistory)
    """Of the submission that was written last."""
    written: int = 0
    waits_for: str = ""
    """The last reason, without its numbers: seconds to go make no new one."""


class JobLogs:
    """The logs of one node's kept jobs that are not over."""

    def __init__(self, kept: KeptJobs, on_disk: OnDisk) -> None:
        self._kept = kept
        self._on_disk = on_disk
        self._logs: dict[bytes, _Log] = {}
        self._writing = trio.Lock()

    async def begin(self, job_id: bytes, before: Explanation | None) -> Earlier:
        """A job is about to be submitted: return what it goes on from. What is known of it until
        now is written.
        """
        if before is not None:
            log = self._log(job_id)
            log.history, log.written = before.history, len(before.history)
        return earlier_of(await self._on_disk(lambda: self._kept.log(job_id)))

    async def add(self, job_id: bytes, what: str, at_us: int) -> None:
        """Write a step of the job's life."""
        await self._write({job_id: [life_step(at_us, what)]})

    async def waits(self, job_id: bytes, reason: str, at_us: int) -> None:
        """Write why a job waits, if that was not written last."""
        log, told = self._log(job_id), DIGITS.sub("", reason)
        if told != log.waits_for:
            log.waits_for = told
            await self._write({job_id: [life_step(at_us, WAITS, reason)]})

    async def catch_up(self, explanations: Iterable[Explanation]) -> None:
        """Write what happened to these jobs and is not written yet."""
        news: dict[bytes, list[dict[str, Any]]] = {}
        for why in explanations:
            if steps := self.unwritten(why):
                log = self._log(why.job_id)
                log.history, log.written = why.history, log.written + len(steps)
                news[why.job_id] = steps
        if news:
            await self._write(news)

    def unwritten(self, why: Explanation) -> list[dict[str, Any]]:
        """Return what happened to a job and is not written yet."""
        log = self._log(why.job_id)
        if log.history is not why.history:
            log.history, log.written = why.history, 0
        return why.steps(log.written) if len(why.history) > log.written else []

    def forget(self, job_id: bytes) -> None:
        """The job is over."""
        self._logs.pop(job_id, None)

    def _log(self, job_id: bytes) -> _Log:
        return self._logs.setdefault(job_id, _Log())

    async def _write(self, news: dict[bytes, list[dict[str, Any]]]) -> None:
        def write() -> None:
            for job_id, steps in news.items():
                self._kept.add_to_log(job_id, steps)

        async with self._writing:  # in their order
            await self._on_disk(write)
