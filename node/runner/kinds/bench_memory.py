"""The kind ``bench.memory``: how fast this machine copies and reads memory, on one thread and on
all.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. A copy counts as read once and written once, as STREAM counts. It bounds what
generating text comes to, since each token reads every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from node.runner import bench_parameters
from node.runner.kinds import Engine, EngineSettings
from protocols.limits import MAX_BENCH_COPY_MB, MAX_BENCH_FIGURE_S

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the benchmark."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_BENCH_FIGURE_S)] = 0.5
    """For each figure."""
    copy_mb: Annotated[int, Meta(ge=1, le=MAX_BENCH_COPY_MB)] = 64
    """MiB of the block; it should be larger than the last cache."""


# The submitter's side


def encode_input(items: Sequence[str]) -> bytes:
    """Return a job's input from ``name=value`` items; raises ``BadInputError``."""
    return bench_parameters.encode(items, Parameters)


rows = bench_parameters.figure_rows
array = bench_parameters.no_array


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return the engine; raises ``ModelError`` where torch is not installed."""
    from node.runner.backends import torch_bench
    from node.runner.benchmarker import Benchmarker

    return Benchmarker(_plan, torch_bench.execution())


def _plan(content: bytes) -> list[Series]:
    from node.runner.backends.torch_bench import Copying
    from node.runner.benchmarker import Series, as_rate, timed
    from node.runner.host import usable_cores

    asked = bench_parameters.decode(content, Parameters)
    size_bytes = asked.copy_mb << 20
    planned: list[Series] = []
    for name, threads in (("one_thread", 1), ("all_threads", usable_cores())):
        block = Copying(size_bytes, threads)
        for what, work, moved in (("copy", block.copy, 2), ("read", block.read, 1)):
            figure = as_rate(f"memory_{what}_{name}_gb_s", moved * size_bytes / 1e9, threads)
            planned.append(Series(asked.seconds, timed(work), figure, block.prepare))
    return planned
