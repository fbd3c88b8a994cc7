"""The kind ``bench.compute``: how fast this machine multiplies matrices, on one thread, on all,
and on its accelerator.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. The matrices are larger than a core's caches, so this is what inference in the
same precision comes near at best. Those of an accelerator, if runners compute on one, are
``ACCELERATOR_TIMES`` as wide: smaller ones would measure how soon it begins.
"""

from __future__ import annotations

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
from protocols.limits import MAX_BENCH_FIGURE_S, MAX_BENCH_MATMUL_SIZE

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.files import ModelFiles


MODEL_KINDS: Final = (benchmarks.MACHINE,)
PRECISIONS: Final = ("none",)
IS_ACCELERATED: Final = True
NEEDS: Final = Needs("worker", ("torch",))
EXAMPLE: Final = "bench.compute --model machine --seconds 2"

ACCELERATOR_TIMES: Final = 8  # 768 becomes 6,144: 0.5 TFLOP, 10 ms of a large accelerator


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked of the benchmark."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_BENCH_FIGURE_S)] = 0.5
    """For each figure."""
    size: Annotated[int, Meta(ge=64, le=MAX_BENCH_MATMUL_SIZE)] = 768
    """Rows and columns of the matrices; 768 is what a start measures."""


PARAMETERS: Final = table_of(
    Parameters, {"seconds": "To measure each figure.", "size": "Rows of the matrices."}
)


# The submitter's side

encode_input = partial(bench_parameters.encode, benchmarks.COMPUTE)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return the engine; raises ``ModelError`` where torch is not installed."""
    return bench_parameters.engine_of(Parameters, _plan, settings)


def _plan(asked: Parameters, settings: EngineSettings) -> list[Series]:
    from node.runner.backends.torch_bench import CPU
    from node.runner.host import BF16_FLAGS, cpu_flags

    planned = [("fp32", "one_thread", CPU, 1), ("fp32", "all_threads", CPU, settings.threads)]
    if cpu_flags() & BF16_FLAGS:
        planned.append(("bf16", "all_threads", CPU, settings.threads))
    if settings.device != CPU:
        planned += [(dtype, "accelerator", settings.device, 0) for dtype in ("fp32", "bf16")]
    return [_series(asked, *each) for each in planned]


def _series(asked: Parameters, dtype: str, where: str, device: str, threads: int) -> Series:
    from node.runner.backends.torch_bench import Matmul
    from node.runner.benchmarker import Series, as_rate, timed

    size = asked.size if threads else asked.size * ACCELERATOR_TIMES
    matmul = Matmul(size, dtype, threads, device)
    return Series(
        seconds=asked.seconds,
        prepare=matmul.prepare,
        sample=timed(matmul.run),
        figures=as_rate(f"matmul_{dtype}_{where}_gflops", 2 * size**3 / 1e9, threads),
    )
