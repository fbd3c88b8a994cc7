"""The kind ``bench.compute``: how fast this machine multiplies matrices, on one thread and on all.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. The matrices are larger than a core's caches, so this is what inference in the
same precision comes near at best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from node.runner import bench_parameters
from node.runner.kinds import Engine, EngineSettings
from protocols.limits import MAX_BENCH_FIGURE_S, MAX_BENCH_MATMUL_SIZE

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the benchmark."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_BENCH_FIGURE_S)] = 0.5
    """For each figure."""
    size: Annotated[int, Meta(ge=64, le=MAX_BENCH_MATMUL_SIZE)] = 768
    """Rows and columns of the matrices; 768 is what a start measures."""


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
    from node.models import BF16_FLAGS
    from node.runner.host import cpu_flags, usable_cores

    asked = bench_parameters.decode(content, Parameters)
    planned = [("fp32_one_thread", 1), ("fp32_all_threads", usable_cores())]
    if cpu_flags() & BF16_FLAGS:
        planned.append(("bf16_all_threads", usable_cores()))
    return [_series(asked, what, threads) for what, threads in planned]


def _series(asked: Parameters, what: str, threads: int) -> Series:
    from node.runner.backends.torch_bench import Matmul
    from node.runner.benchmarker import Series, as_rate, timed

    matmul = Matmul(asked.size, what.partition("_")[0], threads)
    return Series(
        seconds=asked.seconds,
        prepare=matmul.prepare,
        sample=timed(matmul.run),
        figures=as_rate(f"matmul_{what}_gflops", 2 * asked.size**3 / 1e9, threads),
    )
