"""The kind ``bench.memory``: how fast this machine copies and reads memory, on one thread, on
all, and that of its accelerator.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. A copy counts as read once and written once, as STREAM counts. It bounds what
generating text comes to, since each token reads every weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from node import benchmarks
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
    Engine,
    EngineSettings,
    Needs,
)
from node.runner.parameters import table_of
from protocols.limits import MAX_BENCH_COPY_MB, MAX_BENCH_FIGURE_S

if TYPE_CHECKING:
    from node.runner.backends.torch_bench import Copying
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles


MODEL_KINDS: Final = (benchmarks.MACHINE,)
PRECISIONS: Final = ("none",)
IS_ACCELERATED: Final = True
NEEDS: Final = Needs("worker", ("torch",))
EXAMPLE: Final = "bench.memory --model machine"

ACCELERATOR_TIMES: Final = 8  # 64 MiB would lie in the cache of a large accelerator


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked of the benchmark."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_BENCH_FIGURE_S)] = 0.5
    """For each figure."""
    copy_mb: Annotated[int, Meta(ge=1, le=MAX_BENCH_COPY_MB)] = 64
    """MiB of the block; it should be larger than the last cache."""


PARAMETERS: Final = table_of(
    Parameters, {"seconds": "To measure each figure.", "copy_mb": "MiB of the block."}
)


# The submitter's side

encode_input = partial(bench_parameters.encode, benchmarks.MEMORY)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return the engine; raises ``ModelError`` where torch is not installed."""
    return bench_parameters.engine_of(Parameters, _plan, settings)


def _plan(asked: Parameters, settings: EngineSettings) -> list[Series]:
    from node.runner.backends.torch_bench import CPU, Copying

    size_bytes = asked.copy_mb << 20
    blocks = [
        ("one_thread", 1, Copying(size_bytes, 1, CPU)),
        ("all_threads", settings.threads, Copying(size_bytes, settings.threads, CPU)),
    ]
    if settings.device != CPU:
        larger = min(size_bytes * ACCELERATOR_TIMES, MAX_BENCH_COPY_MB << 20)
        blocks.append(("accelerator", 0, Copying(larger, 0, settings.device)))
    return [series for block in blocks for series in _series(asked.seconds, *block)]


def _series(seconds: float, where: str, threads: int, block: Copying) -> Iterator[Series]:
    from node.runner.benchmarker import Series, as_rate, timed

    for what, work, times in (("copy", block.copy, 2), ("read", block.read, 1)):
        name = f"memory_{what}_{where}_gb_s"
        rate = as_rate(name, times * block.size_bytes / 1e9, threads)
        yield Series(seconds, timed(work), rate, block.prepare)
