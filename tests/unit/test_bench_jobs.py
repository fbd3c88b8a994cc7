from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from node.runner.bench_jobs import JobSeries
from node.runner.generator import GenerateEngine
from node.runner.kinds import Advanced, BadInputError, Broken, Event, Facts, Finished, generate
from protocols.benchmark import Figure
from tests.support.languages import BackwardsModel, ByteText


class Slow(BackwardsModel):
    """Takes a second to read, and a quarter for each token."""

    now = 0.0

    def read(self, cache: list[int], tokens: Sequence[int]) -> Any:
        self.now += 1.0
        return super().read(cache, tokens)

    def write(self, caches: Sequence[list[int]], tokens: Sequence[int]) -> Any:
        self.now += 0.25
        return super().write(caches, tokens)


class OneStep:
    """An engine whose jobs take a second and two steps, and write nothing."""

    def __init__(self, error: Exception | None = None) -> None:
        self.execution: Facts = {"threads": 3}
        self.is_busy = True
        self.now = 0.0
        self.started: list[int] = []
        self._error = error
        self._steps = 0

    def start(self, job: int, content: bytes) -> None:
        self.started.append(job)

    def cancel(self, job: int) -> None: ...

    def step(self) -> list[Event]:
        self._steps += 1
        self.now += 0.5
        job = self.started[-1]
        if self._steps % 2:
            return [Advanced(job, 1, 2)]
        if self._error:
            return [Broken(job, self._error)]
        return [Finished(job, b"", self.execution, {})]


def take(series: JobSeries) -> float:
    while (took_s := series.sample()) is None:
        pass
    return took_s


def named(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_a_job_that_writes_tells_of_its_first_token_and_of_tokens_a_second() -> None:
    model = Slow()
    engine = GenerateEngine(model, ByteText(), lambda: model.now, lambda: model.now)
    content = generate.encode_input(["abcdefgh|"], {"max_tokens": 5})
    jobs = JobSeries(engine, content, 1, lambda: model.now)

    samples = [take(jobs) for _ in range(3)]

    assert samples == [2.0, 2.0, 2.0]
    told = named(jobs.figures(samples[1:]))
    assert list(told) == [
        "batch_1_latency_ms",
        "batch_1_items_s",
        "batch_1_first_token_ms",
        "batch_1_tokens_s",
    ]
    assert {name: (figure.median, figure.n) for name, figure in told.items()} == {
        "batch_1_latency_ms": (2_000.0, 2),
        "batch_1_items_s": (0.5, 2),
        "batch_1_first_token_ms": (1_000.0, 2),
        "batch_1_tokens_s": (2.5, 2),
    }
    assert not told["batch_1_first_token_ms"].is_higher_better


def test_several_items_are_one_job_and_their_tokens_count_together() -> None:
    model = Slow()
    engine = GenerateEngine(model, ByteText(), lambda: model.now, lambda: model.now)
    content = generate.encode_input(["abcd|", "efgh|"], {"max_tokens": 3})
    jobs = JobSeries(engine, content, 2, lambda: model.now)

    took_s = take(jobs)

    told = named(jobs.figures([took_s]))
    assert told["batch_2_tokens_s"].median == pytest.approx(6 / took_s, rel=1e-5)
    assert told["batch_2_first_token_ms"].median == 1_000.0


def test_a_job_that_writes_nothing_tells_only_how_long_it_takes() -> None:
    engine = OneStep()
    jobs = JobSeries(engine, b"", 8, lambda: engine.now)

    samples = [take(jobs), take(jobs)]

    told = named(jobs.figures(samples))
    assert list(told) == ["batch_8_latency_ms", "batch_8_items_s"]
    assert (told["batch_8_latency_ms"].median, told["batch_8_items_s"].median) == (1_000.0, 8.0)
    assert told["batch_8_items_s"].threads == 3
    assert engine.started == [1, 2]


def test_a_job_that_breaks_breaks_the_benchmark() -> None:
    engine = OneStep(BadInputError("too long"))
    jobs = JobSeries(engine, b"", 1, lambda: engine.now)

    with pytest.raises(BadInputError, match="too long"):
        take(jobs)
