"""A node's upstream: the way of a job to one of its models, and what is to be expected of it.

Without an address there is no upstream: this one then has no models, and asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from node.config import Upstream as UpstreamOptions
from node.fair_queue import Asker, fair_wait_s
from node.run_request import RunRequest
from node.runner_job import OnPiece, OnProgress, RunOutcome
from node.throughput import Throughput
from node.upstream import embedding, generation
from node.upstream.errors import DOUBTS, UNAVAILABLE
from node.upstream.job import UpstreamJob
from node.upstream.models import EMBED, GENERATE, UpstreamModel, Wanted
from node.upstream.patience import Patience
from node.upstream.slots import Slots
from node.upstream.watch import Changed, Watch
from protocols.errors import JobFailed
from protocols.keys import PeerId

if TYPE_CHECKING:
    from node.upstream.client import UpstreamClient

RUNS: Final = {EMBED: embedding.run, GENERATE: generation.run}


@dataclass(slots=True, eq=False)
class _Active:
    request: RunRequest
    cid: bytes
    share_done: float = 0.0


class Upstream:
    """Runs jobs at one upstream. ``serve`` must run while ``run`` is called."""

    def __init__(self, options: UpstreamOptions, token: str, peer: PeerId) -> None:
        self._options = options
        self._token = token
        self._patience = Patience(options.first_byte_s, options.silence_s)
        wanted = Wanted.of(options.models, options.embeddings)
        self._watch = Watch(wanted, peer, self._patience)
        self._slots = Slots(options.requests)
        self._throughput = Throughput()
        self._active: list[_Active] = []
        self._jobs_done = 0
        self._client: UpstreamClient | None = None

    @property
    def models(self) -> dict[str, UpstreamModel]:
        """Its models, by the names that jobs use; none while it is down."""
        return self._watch.models

    async def serve(
        self, changed: Changed, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Look after the upstream until cancelled; ``changed`` is called when its models change."""
        task_status.started()
        if not self._options.url:
            await trio.sleep_forever()
        from node.upstream.client import UpstreamClient, open_http  # httpx, on use

        # one more than there are places, so that it can always be asked whether it is there
        connections = self._options.requests + 1
        async with open_http(self._options.url, self._token, connections) as http:
            await self.use(UpstreamClient(http), changed)

    async def use(self, client: UpstreamClient, changed: Changed) -> None:
        """Send jobs to this client and look after its server, until cancelled."""
        self._client = client
        try:
            await self._watch.run(client, changed)
        finally:
            self._client = None

    async def run(
        self, model: UpstreamModel, request: RunRequest, on_progress: OnProgress, on_piece: OnPiece
    ) -> RunOutcome:
        """Run one job; raises ``JobFailed`` and ``BadInputError``. Cancelling closes its requests
        at once.
        """
        _check(model, request)
        if self._client is None:
            raise JobFailed("the upstream is not being asked any more", code=UNAVAILABLE)
        active = _Active(request, bytes(model.cid))

        def follow(done: int, total: int) -> None:
            active.share_done = done / total
            on_progress(done, total)

        job = UpstreamJob(
            model=model,
            content=request.input,
            submitter=request.submitter,
            client=self._client,
            patience=self._patience,
            slots=self._slots,
            on_progress=follow,
            on_piece=on_piece,
        )
        self._active.append(active)
        try:
            outcome = await RUNS[model.kind](job)
        except JobFailed as failed:
            if failed.code in DOUBTS:
                self._watch.doubt()
            raise
        finally:
            self._active.remove(active)
        self._observe(active, job)
        return outcome

    def estimate_s(self, model: UpstreamModel, items: int, size_bytes: int) -> float | None:
        """Return how long a job would take alone; None when nothing is known."""
        return self._estimate_s(bytes(model.cid), items, size_bytes)

    def backlog_s(self, asker: Asker) -> float:
        """Return how long a job would wait for a place, as far as is known: not at all where there
        is one for it and for those that were promised one.
        """
        if (spare := self._slots.free - 1) >= 0:
            promised_s = sum(asker.leased_s.values())
            if promised_s <= spare * asker.cost_s:
                return 0.0
        work_s: dict[str, float] = {}
        for active in self._active:
            submitter = active.request.submitter
            work_s[submitter] = work_s.get(submitter, 0.0) + self._rest_s(active)
        places = self._slots.count
        leased_s = {name: each_s / places for name, each_s in asker.leased_s.items()}
        shared = {name: each_s / places for name, each_s in work_s.items()}
        return fair_wait_s(shared, Asker(asker.submitter, asker.cost_s / places, leased_s))

    def status(self) -> dict[str, Any] | None:
        """Return how it is, in plain values fit for JSON; None when there is none."""
        if not self._options.url:
            return None
        return {
            "url": self._options.url,
            "state": "up" if self._watch.is_up else "down",
            "reason": self._watch.reason,
            "models": sorted(self.models),
            "left_out": self._watch.left_out,
            "requests": self._slots.count - self._slots.free,
            "jobs": len(self._active),
            "jobs_done": self._jobs_done,
        }

    def _rest_s(self, active: _Active) -> float:
        request = active.request
        cost_s = self._estimate_s(active.cid, request.units, len(request.input))
        return (cost_s or 0.0) * (1.0 - active.share_done)

    def _estimate_s(self, cid: bytes, items: int, size_bytes: int) -> float | None:
        return self._throughput.estimate_s(cid, units=items, size_bytes=size_bytes, is_warm=True)

    def _observe(self, active: _Active, job: UpstreamJob) -> None:
        self._jobs_done += 1
        request = active.request
        self._throughput.observe(
            active.cid, units=request.units, size_bytes=len(request.input), busy_s=job.alone_s()
        )


def _check(model: UpstreamModel, request: RunRequest) -> None:
    if request.kind != model.kind:
        raise JobFailed(
            f"model {model.name} is of kind {model.kind} here, not {request.kind}",
            code="kind-mismatch",
        )
    if request.precision not in model.precisions:
        raise JobFailed(
            f"model {model.name} is an upstream's: its precision is not known here",
            code="precision-unavailable",
        )
