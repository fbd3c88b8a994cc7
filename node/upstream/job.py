"""One job at an upstream: its requests, so many at once as there are places, and what they took."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from node.runner_job import OnPiece, OnProgress, RunOutcome
from node.upstream.models import BACKEND, PRECISION, UpstreamModel
from node.upstream.patience import Patience
from node.upstream.slots import Slots
from protocols.errors import CoveyError

if TYPE_CHECKING:
    from node.upstream.client import UpstreamClient

Call = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class UpstreamJob:
    """A job of any kind: what it asks for, whom it may ask, and whom to tell."""

    model: UpstreamModel
    content: bytes
    submitter: str
    client: UpstreamClient
    patience: Patience
    slots: Slots
    on_progress: OnProgress
    on_piece: OnPiece
    requests: int = 0
    busy_s: float = 0.0
    _since: float = field(default_factory=trio.current_time)
    _began: float | None = None

    async def do(self, calls: Iterable[Call]) -> None:
        """Make requests, each in a place of its own, the first ones first; raise what the first
        that fails raises, after the others were given up.
        """
        waiting = iter(calls)
        failed: list[CoveyError] = []

        async def work(first: Call) -> None:
            call: Call | None = first
            try:
                while call is not None:
                    await self._in_a_place(call)
                    call = next(waiting, None)
            except CoveyError as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(self.slots.count):
                if (call := next(waiting, None)) is None:
                    break
                nursery.start_soon(work, call)
        if failed:
            raise failed[0]

    async def _in_a_place(self, call: Call) -> None:
        async with self.slots.slot(self.submitter):
            began = trio.current_time()
            self._began = began if self._began is None else self._began
            self.requests += 1
            await call()
            self.busy_s += trio.current_time() - began

    def alone_s(self) -> float:
        """Return how long the job would have been here alone: its requests share the places."""
        return self.busy_s / max(1, min(self.requests, self.slots.count))

    def outcome(self, output: bytes, counts: dict[str, int | None]) -> RunOutcome:
        """Return how the job ended; of ``counts`` those are told that the upstream told."""
        now = trio.current_time()
        began = self._began or now
        told = {name: count for name, count in counts.items() if count is not None}
        return RunOutcome(
            output,
            {
                "backend": BACKEND,
                "precision": PRECISION,
                "upstream_model": self.model.id,
                "requests": self.requests,
                **told,
            },
            {
                "load_ms": 0.0,
                "queue_ms": round((began - self._since) * 1_000, 3),
                "run_ms": round((now - began) * 1_000, 3),
                "busy_ms": round(self.alone_s() * 1_000, 3),
            },
        )


def sum_of(counts: Sequence[int | None]) -> int | None:
    """Return what several requests counted; None if one of them did not."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
