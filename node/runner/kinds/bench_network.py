"""The kind ``bench.network``: round trips and throughput between a worker and its submitter.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. It is the one kind that no runner computes: the connection is the daemon's,
which measures on it (``node.benchmarks.echo``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from node import benchmarks
from node.runner import bench_parameters
from node.runner.kinds import (
    EXACT,
    NO_PARAMETERS,
    BadInputError,
    Engine,
    EngineSettings,
    Items,
    Needs,
)
from node.runner.parameters import Parameter
from protocols.limits import MAX_BENCH_PINGS, MAX_BENCH_ROUND_MB, MAX_BENCH_ROUNDS

if TYPE_CHECKING:
    from node.runner.files import ModelFiles


ITEM_TYPE: Final = None
PARAMETERS: Final = (
    Parameter("pings", int, "Round trips of one byte.", 100, least=1, most=MAX_BENCH_PINGS),
    Parameter("rounds", int, "Of bulk data each way.", 5, least=1, most=MAX_BENCH_ROUNDS),
    Parameter("round_mb", int, "MiB of each round.", 1, least=1, most=MAX_BENCH_ROUND_MB),
)
MODEL_KINDS: Final = (benchmarks.MACHINE,)
PRECISIONS: Final = ("none",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("worker", ())
READER: Final = None
TOLERANCES: Final = EXACT
IS_ARRAY: Final = False
EXAMPLE: Final = "bench.network --model machine --peer PEER"
COUNT_TOKENS: Final = None


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked of the benchmark."""

    pings: Annotated[int, Meta(ge=1, le=MAX_BENCH_PINGS)] = 100
    """Round trips of one byte, one after the other."""
    rounds: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUNDS)] = 5
    """Of bulk data in each direction."""
    round_mb: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUND_MB)] = 1
    """MiB of each."""


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError`` where there are items."""
    return bench_parameters.encode(benchmarks.NETWORK, items, parameters)


count = bench_parameters.count
check = bench_parameters.check
rows = bench_parameters.figure_rows
array = bench_parameters.no_array
compare = bench_parameters.compare


# The node's side


describe = bench_parameters.no_model


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Raise ``BadInputError``: a runner has no connection to measure."""
    raise BadInputError("a network is measured by the daemon, not by a runner")
