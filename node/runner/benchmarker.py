"""How a benchmark is carried out in a runner: one series of samples after the other, one sample a
step, until each series has enough or its time is over.

A series is warmed up by one sample that does not count. It ends after its seconds, but not before
``MIN_BENCH_SAMPLES``, and after ``BENCH_OVERTIME`` times its seconds whatever it has: so a slow
machine takes longer, and never without end. Nothing is left out that was slow: a spread is an
answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.runner.kinds import Advanced, Broken, Event, Facts, Finished, Timings
from protocols.benchmark import Figure, encode_figures, figure_of
from protocols.limits import BENCH_OVERTIME, MAX_BENCH_SAMPLES, MIN_BENCH_SAMPLES

STEPS: Final = 100  # of progress in each series
SHORTEST_S: Final = 1e-9  # of a clock's step: nothing takes no time

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Series:
    """One thing to measure again and again."""

    seconds: float
    sample: Callable[[], float | None]
    """Do a part of the work; the seconds that the whole took once it is done, None before."""
    figures: Callable[[Sequence[float]], list[Figure]]
    """What these samples, in seconds, say."""
    prepare: Callable[[], object] = lambda: None
    """Called once, before the first sample."""


@dataclass(slots=True)
class _Run:
    """One job: its series, and how far they are."""

    waiting: list[Series]
    total: int
    received: float
    cpu_began: float
    started: float | None = None
    figures: list[Figure] = field(default_factory=list[Figure])
    samples: list[float] = field(default_factory=list[float])
    told: int = 0
    is_prepared: bool = False
    is_warm: bool = False
    ends_at: float = 0.0
    gives_up_at: float = 0.0


class Benchmarker:
    """The engine of every benchmark: ``plan`` turns a job's input into its series and raises
    ``BadInputError``.
    """

    def __init__(
        self,
        plan: Callable[[bytes], list[Series]],
        execution: Facts,
        clock: Clock = time.perf_counter,
        cpu_clock: Clock = time.process_time,
    ) -> None:
        self.execution = execution
        self._plan = plan
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._runs: dict[int, _Run] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._runs)

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        series = self._plan(content)
        self._runs[job] = _Run(series, len(series), self._clock(), self._cpu_clock())

    def cancel(self, job: int) -> None:
        """Drop a job between samples; does nothing when there is no such job."""
        self._runs.pop(job, None)

    def step(self) -> list[Event]:
        """Take one sample, or a part of one, of the job that came first: two would measure each
        other.
        """
        if not self._runs:
            return []
        job, run = next(iter(self._runs.items()))
        try:
            return self._advance(job, run)
        except Exception as error:  # noqa: BLE001 - the job boundary
            self.cancel(job)
            return [Broken(job, error)]

    def _advance(self, job: int, run: _Run) -> list[Event]:
        series = run.waiting[0]
        if run.started is None:
            run.started = self._clock()
        if not run.is_prepared:
            series.prepare()
            run.is_prepared = True
        took_s = series.sample()
        if took_s is None:
            return self._advanced(job, run)
        if run.is_warm:
            run.samples.append(max(took_s, SHORTEST_S))
        else:
            run.is_warm = True
            run.ends_at = self._clock() + series.seconds
            run.gives_up_at = self._clock() + series.seconds * BENCH_OVERTIME
        if not self._has_enough(run):
            return self._advanced(job, run)
        run.figures += series.figures(run.samples)
        run.waiting.pop(0)
        run.samples, run.is_warm, run.is_prepared = [], False, False
        done = self._advanced(job, run)
        return done if run.waiting else [*done, self._finish(job, run)]

    def _advanced(self, job: int, run: _Run) -> list[Event]:
        """Say how far a job is, in percent of each series, if that is news: a submitter takes
        silence for a worker that is stuck.
        """
        done = STEPS * (run.total - len(run.waiting))
        if run.is_warm:
            left_s = max(run.ends_at - self._clock(), 0.0)
            time, count = 1 - left_s / run.waiting[0].seconds, len(run.samples) / MIN_BENCH_SAMPLES
            done += int((time + min(count, 1.0)) / 2 * (STEPS - 1))
        if done == run.told:
            return []
        run.told = done
        return [Advanced(job, done, STEPS * run.total)]

    def _has_enough(self, run: _Run) -> bool:
        now, n = self._clock(), len(run.samples)
        is_over = now >= run.ends_at and n >= MIN_BENCH_SAMPLES
        return is_over or n >= MAX_BENCH_SAMPLES or (n > 0 and now >= run.gives_up_at)

    def _finish(self, job: int, run: _Run) -> Finished:
        del self._runs[job]
        assert run.started is not None, "a job that ends has begun"
        run_ms = (self._clock() - run.started) * 1_000
        timings: Timings = {
            "queue_ms": round((run.started - run.received) * 1_000, 3),
            "run_ms": round(run_ms, 3),
            "busy_ms": round(run_ms, 3),
            "cpu_ms": round((self._cpu_clock() - run.cpu_began) * 1_000, 3),
        }
        return Finished(job, encode_figures(run.figures), self.execution, timings)


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> Callable[[], float]:
    """Return a sample that does all of ``work`` at once."""

    def sample() -> float:
        began = clock()
        work()
        return clock() - began

    return sample


def as_rate(name: str, amount: float, threads: int) -> Callable[[Sequence[float]], list[Figure]]:
    """Return what samples say of doing ``amount`` each time: so much a second."""

    def figures(samples_s: Sequence[float]) -> list[Figure]:
        rates = [amount / took_s for took_s in samples_s]
        return [figure_of(name, rates, is_higher_better=True, threads=threads)]

    return figures
