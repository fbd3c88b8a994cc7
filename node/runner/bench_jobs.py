"""One series of ``bench.model``: the same job again and again in an engine of its own, and what
that says: how long a job takes, how soon its first text comes, how many items and tokens a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.runner.benchmarker import SHORTEST_S, Series
from node.runner.kinds import Broken, Emitted, Engine, Finished
from node.runner.kinds.bench_model import latency_of
from protocols.benchmark import Figure, figure_of

NEW_TOKENS: Final = "new_tokens"
"""What engines of models that write call the tokens of a job."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What one job told besides the time that it took."""

    first_s: float
    """Until its first text."""
    tokens: int


class JobSeries:
    """Jobs of ``batch`` items, a step of the engine at a time, so that a benchmark can be cancelled
    within one.
    """

    def __init__(
        self,
        engine: Engine,
        content: bytes,
        batch: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._content = content
        self._batch = batch
        self._clock = clock
        self._number = 0
        self._began: float | None = None
        self._first_s: float | None = None
        self._written: list[_Written] = []

    def series(self, seconds: float) -> Series:
        """Return it as a benchmark carries it out."""
        return Series(seconds, self.sample, self.figures)

    def sample(self) -> float | None:
        """Go on with a job, or begin the next one; the seconds that it took once it is done."""
        if self._began is None:
            self._began, self._first_s = self._clock(), None
            self._number += 1
            self._engine.start(self._number, self._content)
        for event in self._engine.step():
            match event:
                case Emitted() if self._first_s is None:
                    self._first_s = self._clock() - self._began
                case Broken():
                    raise event.error
                case Finished():
                    return self._end(event, self._clock() - self._began)
                case _:
                    pass
        return None

    def _end(self, finished: Finished, took_s: float) -> float:
        self._began = None
        tokens = finished.execution.get(NEW_TOKENS)
        if isinstance(tokens, int):
            first_s = took_s if self._first_s is None else self._first_s
            self._written.append(_Written(max(first_s, SHORTEST_S), max(tokens, 1)))
        return took_s

    def figures(self, samples_s: Sequence[float]) -> list[Figure]:
        """Return what the jobs say that took so long; those before them warmed up."""
        threads: Any = self._engine.execution.get("threads", 0)
        name = f"batch_{self._batch}"
        latencies = [took_s * 1_000 for took_s in samples_s]
        rates = [self._batch / took_s for took_s in samples_s]
        told = [
            figure_of(latency_of(self._batch), latencies, is_higher_better=False, threads=threads),
            figure_of(f"{name}_items_s", rates, is_higher_better=True, threads=threads),
        ]
        written = self._written[-len(samples_s) :]
        if not written:
            return told
        firsts = [each.first_s * 1_000 for each in written]
        speeds = [each.tokens / took_s for each, took_s in zip(written, samples_s, strict=True)]
        return [
            *told,
            figure_of(f"{name}_first_token_ms", firsts, is_higher_better=False, threads=threads),
            figure_of(f"{name}_tokens_s", speeds, is_higher_better=True, threads=threads),
        ]
