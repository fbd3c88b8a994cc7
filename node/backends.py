"""Everything that computes at this node, chosen by the model's name: runners of our own for
installed models, the upstream for those that it has.

A model that is installed here wins over one that an upstream calls the same, for its files are
known.
"""

from __future__ import annotations

from node.fair_queue import Asker
from node.manifest import ModelError, ModelMissingError
from node.models import InstalledModel, ModelStore
from node.offered_model import OfferedModel
from node.run_request import RunRequest
from node.runner_job import OnPiece, OnProgress, RunOutcome
from node.runner_room import NoRoom
from node.runners import RunnerPool
from node.upstream.models import UpstreamModel
from node.upstream.pool import Upstream

NOT_HERE = frozenset({ModelMissingError.default_code, "model-name"})


class Backends:
    """What worker, admission and advert see of models and of what runs them."""

    def __init__(self, store: ModelStore, runners: RunnerPool, upstream: Upstream) -> None:
        self._store = store
        self._runners = runners
        self._upstream = upstream

    def get(self, name: str) -> OfferedModel:
        """Return the model of that name; raises as ``ModelStore.get``."""
        try:
            return self._store.get(name)
        except ModelError as error:
            model = self._upstream.models.get(name)
            if model is None or error.code not in NOT_HERE:
                raise
            return model

    def scan(self) -> tuple[list[OfferedModel], list[ModelError]]:
        """Return all usable models, the installed ones first, and what is wrong with others."""
        installed, damaged = self._store.scan()
        known = {model.name for model in installed}
        upstream = [each for each in self._upstream.models.values() if each.name not in known]
        return [*installed, *upstream], damaged

    async def run(
        self, request: RunRequest, on_progress: OnProgress, on_piece: OnPiece
    ) -> RunOutcome:
        """Run one job; raises and can be cancelled as ``RunnerPool.run``."""
        model = self.get(request.model)
        if isinstance(model, UpstreamModel):
            return await self._upstream.run(model, request, on_progress, on_piece)
        return await self._runners.run(request, on_progress, on_piece)

    def estimate_s(
        self, model: OfferedModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """Return how long a job would take, by those before it; None when they do not tell."""
        if isinstance(model, UpstreamModel):
            return self._upstream.estimate_s(model, units, size_bytes)
        assert isinstance(model, InstalledModel), "there are two kinds of models"
        return self._runners.estimate_s(model, precision, units, size_bytes)

    def foreseen_s(
        self, model: OfferedModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """Return how long a job will take, going by this machine; nothing can be said of an
        upstream's.
        """
        if isinstance(model, InstalledModel):
            return self._runners.foreseen_s(model, precision, units, size_bytes)
        return None

    def learn(self, request: RunRequest, *, units: int, size_bytes: int, busy_s: float) -> None:
        """Expect the installed model of a benchmark to take so long for a job of that size."""
        self._runners.learn(request, units=units, size_bytes=size_bytes, busy_s=busy_s)

    def backlog_s(self, model: OfferedModel, precision: str, asker: Asker) -> float:
        """Return how long a job would wait for what was there before it."""
        if isinstance(model, UpstreamModel):
            return self._upstream.backlog_s(asker)
        assert isinstance(model, InstalledModel), "there are two kinds of models"
        return self._runners.backlog_s(model, precision, asker)

    def no_room(self, model: OfferedModel, precision: str) -> NoRoom | None:
        """Say why nothing here could hold the model now; None when something does, or could."""
        if isinstance(model, UpstreamModel):
            return None
        assert isinstance(model, InstalledModel), "there are two kinds of models"
        return self._runners.no_room(model, precision)

    def is_benchmark_waiting(self) -> bool:
        """Whether a benchmark waits until it is alone at this machine."""
        return self._runners.is_benchmark_waiting()
