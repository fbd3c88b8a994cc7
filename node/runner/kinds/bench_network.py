"""The kind ``bench.network``: round trips and throughput between a worker and its submitter.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. It is the one kind that no runner computes: the connection is the daemon's,
which measures on it (``node.benchmarks.echo``).
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
    BadInputError,
    Engine,
    EngineSettings,
    Needs,
)
from node.runner.parameters import table_of
from protocols.limits import MAX_BENCH_PINGS, MAX_BENCH_ROUND_MB, MAX_BENCH_ROUNDS

if TYPE_CHECKING:
    from node.runner.files import ModelFiles


MODEL_KINDS: Final = (benchmarks.MACHINE,)
PRECISIONS: Final = ("none",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("worker", ())
EXAMPLE: Final = "bench.network --model machine --peer PEER"


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked of the benchmark."""

    pings: Annotated[int, Meta(ge=1, le=MAX_BENCH_PINGS)] = 100
    """Round trips of one byte, one after the other."""
    rounds: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUNDS)] = 5
    """Of bulk data in each direction."""
    round_mb: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUND_MB)] = 1
    """MiB of each."""


PARAMETERS: Final = table_of(
    Parameters,
    {
        "pings": "Round trips of one byte.",
        "rounds": "Of bulk data each way.",
        "round_mb": "MiB of each round.",
    },
)


# The submitter's side

encode_input = partial(bench_parameters.encode, benchmarks.NETWORK)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Raise ``BadInputError``: a runner has no connection to measure."""
    raise BadInputError("a network is measured by the daemon, not by a runner")
