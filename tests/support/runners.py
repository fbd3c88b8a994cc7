"""Runners and models in memory, with the interfaces of ``RunnerPool`` and ``ModelStore``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.fair_queue import Asker
from node.manifest import FileEntry, Manifest, ModelMissingError
from node.models import InstalledModel
from node.offered_model import OfferedModel
from node.run_request import RunRequest
from node.runner_job import RunOutcome
from node.runner_room import NoRoom


def model_of(
    name: str, kind: str = "embed", precisions: tuple[str, ...] = ("fp32", "bf16")
) -> InstalledModel:
    """An installed model that has no files."""
    manifest = Manifest(
        name=name,
        kind=kind,
        architecture="none",
        precision="fp32",
        dimension=4,
        max_tokens=8,
        license="none",
        source="tests",
        files={"model.safetensors": FileEntry("0" * 64, 1)},
    )
    return InstalledModel(name, manifest.cid, kind, Path("/nowhere"), manifest, precisions)


@dataclass
class FakeModels:
    """The models of one worker, by name."""

    models: dict[str, InstalledModel] = field(default_factory=dict)

    def get(self, name: str) -> InstalledModel:
        try:
            return self.models[name]
        except KeyError:
            raise ModelMissingError(f"model {name} is not installed here") from None


@dataclass
class FakeRunnerPool:
    """Answers with ``output_of(input)`` after ``pace_s`` an item, unless told to fail or to hold
    on.
    """

    pace_s: float = 0.0
    error: Exception | None = None
    """What every job fails with."""
    hold: bool = False
    """Whether jobs go on until they are cancelled."""
    output_of: Callable[[bytes], bytes] = bytes.upper
    emits: bool = False
    """Whether a piece of the output is told with each item."""
    facts: dict[str, int | float | str] = field(default_factory=dict)
    """What it says of every run besides what is usual."""
    estimate: float | None = None
    lacks_room: NoRoom | None = None
    requests: list[RunRequest] = field(default_factory=list)
    learned: list[tuple[str, int, int, float]] = field(default_factory=list)
    finished: int = 0
    cancelled: int = 0
    running: int = 0

    async def run(
        self,
        request: RunRequest,
        on_progress: Callable[[int, int], None] = lambda _d, _t: None,
        on_piece: Callable[[bytes], None] = lambda _piece: None,
    ) -> RunOutcome:
        self.requests.append(request)
        self.running += 1
        try:
            await self._work(request, on_progress, on_piece)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.finished += 1
        return RunOutcome(
            self.output_of(request.input),
            {"engine": "fake", "threads": 1, "precision": request.precision, **self.facts},
            {"busy_ms": 1.5, "load_ms": 0.0},
        )

    async def _work(
        self,
        request: RunRequest,
        on_progress: Callable[[int, int], None],
        on_piece: Callable[[bytes], None],
    ) -> None:
        if self.hold:
            await trio.sleep_forever()
        for done in range(1, request.units + 1):
            await trio.sleep(self.pace_s)
            on_progress(done, request.units)
            if self.emits:
                on_piece(self._piece(request, done))
        if self.error is not None:
            raise self.error

    def _piece(self, request: RunRequest, done: int) -> bytes:
        output, items = self.output_of(request.input), request.units
        return output[len(output) * (done - 1) // items : len(output) * done // items]

    def learn(self, request: RunRequest, *, units: int, size_bytes: int, busy_s: float) -> None:
        self.learned.append((request.model, units, size_bytes, busy_s))

    def estimate_s(
        self, model: OfferedModel, precision: str, items: int, size_bytes: int
    ) -> float | None:
        return self.estimate

    def foreseen_s(
        self, model: OfferedModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        return None

    def backlog_s(self, model: OfferedModel, precision: str, asker: Asker) -> float:
        leased_s = sum(asker.leased_s.values())
        return leased_s + (self.estimate or 0.0) * self.running

    def no_room(self, model: OfferedModel, precision: str) -> NoRoom | None:
        return self.lacks_room

    def is_benchmark_waiting(self) -> bool:
        return False
