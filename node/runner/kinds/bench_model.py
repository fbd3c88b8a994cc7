"""The kind ``bench.model``: how long jobs of a model take, by the number of items in a job.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). The
model is the one that is measured, whatever its own kind: that kind's engine does jobs here one
after the other, exactly as it would in its own runner, so tokenising, batching and pooling count.
What a job of each kind is lies in ``PROBES``. Of models that write, the first text of a job and the
tokens a second are told besides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from node import benchmarks
from node.manifest import ModelError
from node.runner import bench_parameters
from node.runner.bench_parameters import (
    COUNT_TOKENS as COUNT_TOKENS,
    IS_ARRAY as IS_ARRAY,
    ITEM_TYPE as ITEM_TYPE,
    READER as READER,
    TOLERANCES as TOLERANCES,
    array as array,
    check as check,
    compare as compare,
    count as count,
    describe as describe,
    rows as rows,
)
from node.runner.kinds import (
    TORCH,
    Engine,
    EngineSettings,
    kind_named,
)
from node.runner.parameters import table_of
from protocols.limits import (
    MAX_BENCH_BATCH,
    MAX_BENCH_BATCHES,
    MAX_BENCH_FIGURE_S,
    MAX_BENCH_TOKENS,
    MAX_BENCH_WORDS,
)

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles

MODEL_KINDS: Final = ("embed", "generate")
PRECISIONS: Final = ("fp32", "bf16", "int8", "int4")
IS_ACCELERATED: Final = True
NEEDS: Final = TORCH
EXAMPLE: Final = "bench.model --model all-minilm-l6-v2"


SENTENCE: Final = "the quick brown fox jumps over a lazy dog while seven small boats drift home"
WORDS: Final = SENTENCE.split()

Batch = Annotated[int, Meta(ge=1, le=MAX_BENCH_BATCH)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
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
    tokens: Annotated[int, Meta(ge=2, le=MAX_BENCH_TOKENS)] = 16
    """Written for each item, by models that write."""

    def __post_init__(self) -> None:
        if len(set(self.batches)) < len(self.batches):
            raise ValueError("two batches are of one size")


PARAMETERS: Final = table_of(
    Parameters,
    {
        "seconds": "To measure each figure.",
        "batches": "Items of a job, commas between.",
        "words": "Of each item.",
        "tokens": "To write for each item.",
    },
)


# The submitter's side

encode_input = partial(bench_parameters.encode, benchmarks.MODEL)


def probe(kind: str, asked: Parameters, batch: int) -> bytes:
    """Return the input of a job with so many items, for a model of ``kind``."""
    return PROBES[kind](asked, batch)


def latency_of(batch: int) -> str:
    """Return the name of the figure that says how long a job with so many items takes."""
    return f"batch_{batch}_latency_ms"


# What a job of each kind is


def texts(asked: Parameters, batch: int) -> list[str]:
    """Return the items of one job, no two alike."""
    return [
        " ".join(WORDS[(place + word) % len(WORDS)] for word in range(asked.words))
        for place in range(batch)
    ]


def _embed(asked: Parameters, batch: int) -> bytes:
    return kind_named("embed").encode_input(texts(asked, batch))


def _generate(asked: Parameters, batch: int) -> bytes:
    told = {"max_tokens": asked.tokens}
    return kind_named("generate").encode_input(texts(asked, batch), told)


PROBES: Final[dict[str, Callable[[Parameters, int], bytes]]] = {
    "embed": _embed,
    "generate": _generate,
}
"""The input of a job with so many items, for each kind of model that can be measured."""


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that drives the model's own; raises ``ModelError``."""
    from node.runner.benchmarker import Benchmarker

    kind = files.manifest.kind
    if kind not in PROBES:
        raise ModelError(
            f"models of kind {kind} have no benchmark",
            hint=f"those of {', '.join(sorted(PROBES))} have",
        )
    engine = kind_named(kind).load(files, settings)

    def plan(content: bytes) -> list[Series]:
        asked = bench_parameters.decode(content, Parameters)
        return [_series(engine, kind, asked, batch) for batch in asked.batches]

    return Benchmarker(plan, {**engine.execution, "kind_of_model": kind})


def _series(engine: Engine, kind: str, asked: Parameters, batch: int) -> Series:
    from node.runner.bench_jobs import JobSeries

    return JobSeries(engine, probe(kind, asked, batch), batch).series(asked.seconds)
