"""Computes jobs in turn, a step of one job after a step of the next, for kinds whose jobs share no
batches.

A job is a generator: it yields how many of its items are done, after each fraction of a second, and
returns its output. Between two steps any job can be dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from node.runner.kinds import Advanced, Broken, Event, Facts, Finished, Timings

Steps = Generator[int, None, bytes]
NOT_STARTED: Final = -1.0


@dataclass(slots=True)
class _Job:
    number: int
    total: int
    steps: Steps
    received: float
    started: float = NOT_STARTED
    busy_s: float = 0.0
    cpu_s: float = 0.0


class TurnsEngine:
    """An engine over ``begin``, which takes in an input and returns how many items it has, and the
    job's steps; it raises ``BadInputError``.
    """

    def __init__(
        self,
        execution: Facts,
        begin: Callable[[bytes], tuple[int, Steps]],
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.execution = execution
        self._begin = begin
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._jobs: deque[_Job] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._jobs)

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        total, steps = self._begin(content)
        self._jobs.append(_Job(job, total, steps, self._clock()))

    def cancel(self, job: int) -> None:
        """Drop a job between steps; does nothing when there is no such job."""
        for each in [each for each in self._jobs if each.number == job]:
            each.steps.close()
            self._jobs.remove(each)

    def step(self) -> list[Event]:
        """Let the job whose turn it is go on to its next yield, or its end."""
        job = self._jobs[0]
        self._jobs.rotate(-1)
        try:
            with self._charged(job):
                done = next(job.steps)
        except StopIteration as ended:
            self._jobs.remove(job)
            finished = Finished(job.number, ended.value, self.execution, self._timings(job))
            return [Advanced(job.number, job.total, job.total), finished]
        except Exception as error:  # noqa: BLE001 - the job boundary: the other jobs go on
            self._jobs.remove(job)
            return [Broken(job.number, error)]
        return [Advanced(job.number, done, job.total)]

    @contextmanager
    def _charged(self, job: _Job) -> Generator[None]:
        """Count the block's time as the job's."""
        began, cpu_began = self._clock(), self._cpu_clock()
        if job.started == NOT_STARTED:
            job.started = began
        try:
            yield
        finally:
            job.busy_s += self._clock() - began
            job.cpu_s += self._cpu_clock() - cpu_began

    def _timings(self, job: _Job) -> Timings:
        seconds = {
            "queue_ms": job.started - job.received,
            "run_ms": self._clock() - job.started,
            "busy_ms": job.busy_s,
            "cpu_ms": job.cpu_s,
        }
        return {name: round(value * 1_000, 3) for name, value in seconds.items()}
