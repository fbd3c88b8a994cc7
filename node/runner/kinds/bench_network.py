"""The kind ``bench.network``: round trips and throughput between a worker and its submitter.

Input is DAG-CBOR: a map of parameters. Output is DAG-CBOR: figures (``protocols.benchmark``). Its
model is ``machine``. It is the one kind that no runner computes: the connection is the daemon's,
which measures on it (``node.benchmarks.echo``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from node.runner import bench_parameters
from node.runner.kinds import BadInputError, Engine, EngineSettings
from protocols.limits import MAX_BENCH_PINGS, MAX_BENCH_ROUND_MB, MAX_BENCH_ROUNDS

if TYPE_CHECKING:
    from node.runner.files import ModelFiles


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the benchmark."""

    pings: Annotated[int, Meta(ge=1, le=MAX_BENCH_PINGS)] = 100
    """Round trips of one byte, one after the other."""
    rounds: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUNDS)] = 5
    """Of bulk data in each direction."""
    round_mb: Annotated[int, Meta(ge=1, le=MAX_BENCH_ROUND_MB)] = 1
    """MiB of each."""


# The submitter's side


def encode_input(items: Sequence[str]) -> bytes:
    """Return a job's input from ``name=value`` items; raises ``BadInputError``."""
    return bench_parameters.encode(items, Parameters)


rows = bench_parameters.figure_rows
array = bench_parameters.no_array


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Raise ``BadInputError``: a runner has no connection to measure."""
    raise BadInputError("a network is measured by the daemon, not by a runner")
