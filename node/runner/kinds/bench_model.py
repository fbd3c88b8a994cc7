"""The kind ``bench.model``: how long jobs of a model take, by the number of items in a job.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). The
model is the one that is measured, whatever its own kind: that kind's engine does jobs here one
after the other, exactly as it would in its own runner, so tokenising, batching and pooling count.
What a job of each kind is lies in ``PROBES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from node.manifest import ModelError
from node.runner import bench_parameters
from node.runner.kinds import (
    Advanced,
    Broken,
    Engine,
    EngineSettings,
    Finished,
    kind_named,
)
from protocols.benchmark import Figure, figure_of
from protocols.limits import (
    MAX_BENCH_BATCH,
    MAX_BENCH_BATCHES,
    MAX_BENCH_FIGURE_S,
    MAX_BENCH_WORDS,
)

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles

WORDS: Final = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "small",
    "boats",
    "drift",
    "home",
]

Batch = Annotated[int, Meta(ge=1, le=MAX_BENCH_BATCH)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the benchmark."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_BENCH_FIGURE_S)] = 0.5
    """For each number of items."""
    batches: Annotated[tuple[Batch, ...], Meta(min_length=1, max_length=MAX_BENCH_BATCHES)] = (
        1,
        8,
        32,
    )
    """Items of a job."""
    words: Annotated[int, Meta(ge=1, le=MAX_BENCH_WORDS)] = 16
    """Of each item: as many in all, so that a latency tells of one size."""

    def __post_init__(self) -> None:
        if len(set(self.batches)) < len(self.batches):
            raise ValueError("two batches are of one size")


# The submitter's side


def encode_input(items: Sequence[str]) -> bytes:
    """Return a job's input from ``name=value`` items; raises ``BadInputError``."""
    return bench_parameters.encode(items, Parameters)


rows = bench_parameters.figure_rows
array = bench_parameters.no_array


def texts(asked: Parameters, batch: int) -> list[str]:
    """Return the items of one job, no two alike."""
    return [
        " ".join(WORDS[(place + word) % len(WORDS)] for word in range(asked.words))
        for place in range(batch)
    ]


# What a job of each kind is

Probe = Callable[[Parameters, int], bytes]


def _embed(asked: Parameters, batch: int) -> bytes:
    return kind_named("embed").encode_input(texts(asked, batch))


PROBES: Final[dict[str, Probe]] = {"embed": _embed}
"""The input of a job with so many items, for each kind of model that can be measured."""


def input_bytes(asked: Parameters, batch: int) -> int:
    """Return the size of the input of a job with so many items."""
    return len(_embed(asked, batch))


def latency_of(batch: int) -> str:
    """Return the name of the figure that says how long a job with so many items takes."""
    return f"batch_{batch}_latency_ms"


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that drives the model's own; raises ``ModelError``."""
    from node.runner.benchmarker import Benchmarker

    probe = PROBES.get(files.manifest.kind)
    if probe is None:
        raise ModelError(
            f"models of kind {files.manifest.kind} have no benchmark",
            hint=f"those of {', '.join(sorted(PROBES))} have",
        )
    engine = kind_named(files.manifest.kind).load(files, settings)

    def plan(content: bytes) -> list[Series]:
        asked = bench_parameters.decode(content, Parameters)
        return [_series(engine, probe, asked, batch) for batch in asked.batches]

    return Benchmarker(plan, {**engine.execution, "kind_of_model": files.manifest.kind})


def _series(engine: Engine, probe: Probe, asked: Parameters, batch: int) -> Series:
    from node.runner.benchmarker import Series

    threads: Any = engine.execution.get("threads", 0)
    return Series(
        seconds=asked.seconds,
        sample=_Job(engine, probe(asked, batch)).sample,
        figures=_figures(batch, threads),
    )


class _Job:
    """One job after the other in an engine of its own, a step of the engine at a time, so that a
    benchmark can be cancelled within one.
    """

    def __init__(self, engine: Engine, content: bytes) -> None:
        self._engine = engine
        self._content = content
        self._number = 0
        self._began: float | None = None

    def sample(self) -> float | None:
        import time

        if self._began is None:
            self._began = time.perf_counter()
            self._number += 1
            self._engine.start(self._number, self._content)
        for event in self._engine.step():
            match event:
                case Finished():
                    took_s = time.perf_counter() - self._began
                    self._began = None
                    return took_s
                case Broken():
                    raise event.error
                case Advanced():
                    pass
        return None


def _figures(batch: int, threads: int) -> Callable[[Sequence[float]], list[Figure]]:
    def figures(samples_s: Sequence[float]) -> list[Figure]:
        latencies = [took_s * 1_000 for took_s in samples_s]
        rates = [batch / took_s for took_s in samples_s]
        return [
            figure_of(latency_of(batch), latencies, is_higher_better=False, threads=threads),
            figure_of(f"batch_{batch}_items_s", rates, is_higher_better=True, threads=threads),
        ]

    return figures
