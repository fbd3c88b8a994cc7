"""Benchmarks at their worker: which part of the node carries them out, and what it learns from
them.

Stands between the worker and what computes at this node. All other jobs pass through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import trio

from node import benchmarks
from node.admission import Models
from node.benchmarks.echo import measure_network
from node.run_request import RunRequest
from node.runner import bench_parameters
from node.runner.kinds import (
    bench_compute,
    bench_memory,
    bench_model,
    bench_network,
    kind_named,
)
from node.runner.measure import COPY_BYTES, MATMUL_SIZE
from node.runner_job import OnPiece, OnProgress, RunOutcome
from protocols.benchmark import Figure, decode_figures, encode_figures
from protocols.keys import PeerId
from protocols.membership import ECHO_PROTOCOL
from protocols.transport import Transport


@dataclass(frozen=True, slots=True)
class BenchOutcome(RunOutcome):
    """What a benchmark found, and what it was asked for."""

    parameters: dict[str, Any]
    figures: tuple[Figure, ...]


class Runners(Protocol):
    """Everything that computes at this node."""

    async def run(
        self, request: RunRequest, on_progress: OnProgress, on_piece: OnPiece
    ) -> RunOutcome:
        """Run one job."""
        ...

    def learn(self, request: RunRequest, *, units: int, size_bytes: int, busy_s: float) -> None:
        """Take in how long a job of a model took."""
        ...


class Machine(Protocol):
    """What this node says of its hardware."""

    async def until_measured(self) -> None:
        """Return when the measurement of this start is over."""
        ...

    async def benchmarked(self, figures: tuple[Figure, ...]) -> None:
        """Advertise these figures."""
        ...


class BenchRunners:
    """``machine`` is told what benchmarks of it found, where adverts state the same."""

    def __init__(
        self, models: Models, runners: Runners, transport: Transport, machine: Machine
    ) -> None:
        self._models = models
        self._runners = runners
        self._transport = transport
        self._machine = machine

    async def run(
        self, request: RunRequest, on_progress: OnProgress, on_piece: OnPiece
    ) -> RunOutcome:
        """Run one job; raises and can be cancelled as those do."""
        if not benchmarks.is_benchmark(request.kind):
            return await self._runners.run(request, on_progress, on_piece)
        asked = bench_parameters.decode(request.input, bench_parameters.schema_of(request.kind))
        if isinstance(asked, bench_network.Parameters):
            run = await self._measure_network(request.submitter, asked, on_progress)
        else:
            await self._machine.until_measured()
            run = await self._runners.run(request, on_progress, on_piece)
        figures = decode_figures(run.output)
        if isinstance(asked, bench_model.Parameters):
            self._learn_model(request, asked, figures)
        elif _is_as_at_start(asked):
            await self._machine.benchmarked(figures)
        return BenchOutcome(
            run.output, run.execution, run.timings, bench_parameters.told(asked), figures
        )

    def _learn_model(
        self, request: RunRequest, asked: bench_model.Parameters, figures: tuple[Figure, ...]
    ) -> None:
        """Expect the model's next jobs to take as long as those of the benchmark."""
        medians = {figure.name: figure.median for figure in figures}
        kind = self._models.get(request.model).kind
        codec = kind_named(kind)
        for batch in asked.batches:
            content = bench_model.probe(kind, asked, batch)
            self._runners.learn(
                request,
                units=(codec.COUNT_TOKENS or codec.count)(content),
                size_bytes=len(content),
                busy_s=medians[bench_model.latency_of(batch)] / 1_000,
            )

    async def _measure_network(
        self, peer: PeerId, asked: bench_network.Parameters, on_progress: OnProgress
    ) -> RunOutcome:
        began, done = trio.current_time(), 0

        def on_round() -> None:
            nonlocal done
            done += 1
            on_progress(done, asked.pings + 2 * asked.rounds)

        figures = await measure_network(
            self._transport,
            peer,
            pings=asked.pings,
            rounds=asked.rounds,
            round_mb=asked.round_mb,
            on_round=on_round,
        )
        run_ms = round((trio.current_time() - began) * 1_000, 3)
        return RunOutcome(
            encode_figures(figures),
            {"engine": "covey daemon", "protocol": ECHO_PROTOCOL},
            {"run_ms": run_ms, "busy_ms": run_ms, "load_ms": 0.0},
        )


def _is_as_at_start(asked: msgspec.Struct) -> bool:
    """Whether a benchmark measures what a start does, so that an advert may state it: other sizes
    would make machines look better or worse than others, and anybody may ask for them.
    """
    match asked:
        case bench_compute.Parameters():
            return asked.size == MATMUL_SIZE
        case bench_memory.Parameters():
            return asked.copy_mb << 20 >= COPY_BYTES
        case _:
            return False
