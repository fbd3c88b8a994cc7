"""The node's runners: which models are in memory, and the way of a job to one of them.

A runner is a warm process for one (backend, model, precision). It starts with the first job that
needs it and ends when idle, when it must make room, or with the daemon. What happens inside a job
stays its own: a crash fails the jobs in that runner, and the next job gets a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypedDict

import trio

from node.backlog import Backlog
from node.lanes import Lanes, is_exclusive
from node.models import InstalledModel
from node.runner.batcher import BATCH_TOKENS
from node.runner.host import compute_threads
from node.runner_child import STOPPED, OnProgress, RunnerChild, RunnerSpec, RunOutcome
from node.throughput import Throughput
from node.turns import Turn
from peer.effects import Effects
from protocols.errors import JobFailed, LocalProtocolError
from protocols.limits import MAX_RUNNERS

IDLE_UNLOAD_S: Final = 300.0
MAX_STARTS: Final = (
    3  # runners that one job may see stopped under it, because of other jobs, before it fails
)

Key = tuple[str, bytes, str]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One job for a runner: which installed model, in which precision, on what. ``items`` is only
    for estimates, ``submitter`` for taking turns.
    """

    model: str
    kind: str
    precision: str
    input: bytes
    items: int = 1
    submitter: str = ""


class RunnerStatus(TypedDict):
    """What one runner is doing; plain values, fit for JSON. ``state`` is ``loading``, ``idle`` or
    ``working``.
    """

    model: str
    precision: str
    backend: str
    pid: int | None
    state: str
    jobs: int
    jobs_done: int
    load_ms: float
    threads: int
    started_us: int


class Models(Protocol):
    """What the pool asks of the model store."""

    def get(self, name: str) -> InstalledModel:
        """Return an installed model; raise ``CoveyError`` when it cannot be used."""
        ...


class RunnerPool:
    """Starts runners when jobs need them and ends them when they don't. ``serve`` must run while
    ``run`` is called.
    """

    def __init__(
        self,
        store: Models,
        effects: Effects,
        *,
        idle_unload_s: float = IDLE_UNLOAD_S,
        max_runners: int = MAX_RUNNERS,
        child: Callable[[RunnerSpec, int, float], RunnerChild] = RunnerChild,
    ) -> None:
        self._store = store
        self._effects = effects
        self._idle_unload_s = idle_unload_s
        self._max_runners = max_runners
        self._new_child = child
        self._threads = compute_threads()  # read from a dozen files of the kernel
        self._children: dict[Key, RunnerChild] = {}
        self._lanes = Lanes()
        self._throughput = Throughput()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the runners until cancelled or ``aclose``; when it returns, none is left."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    task_status.started()
                    try:
                        await trio.sleep_forever()
                    finally:
                        self._nursery = None  # first of all, so that no job starts another runner
        finally:
            self._stopped.set()

    async def aclose(self) -> None:
        """End every runner and wait for that; jobs in them fail with code ``runner-stopped``."""
        if self._nursery is not None:
            self._nursery = None
            self._scope.cancel()
            await self._stopped.wait()

    async def run(
        self, request: RunRequest, on_progress: OnProgress = lambda _done, _total: None
    ) -> RunOutcome:
        """Run one job and return its outcome; ``on_progress(done, total)`` is called in this task.

        Raises ``JobFailed``, ``ModelMissingError`` and ``ModelDamagedError``. Cancelling ends the
        job within two seconds, if need be by killing its runner; other jobs in it start again in a
        fresh one.
        """
        model = self._store.get(request.model)
        _check(request, model)
        size_bytes = len(request.input)
        cost_s = self.estimate_s(model, request.precision, request.items, size_bytes)
        await self._lanes.enter(request.kind, cost_s)
        try:
            return await self._run_here(model, request, on_progress)
        finally:
            self._lanes.leave(request.kind)

    async def _run_here(
        self, model: InstalledModel, request: RunRequest, on_progress: OnProgress
    ) -> RunOutcome:
        for _ in range(MAX_STARTS):
            child = self._child(model, request.precision)
            try:
                return await self._run_in(child, request, on_progress)
            except JobFailed as failed:
                if failed.code != STOPPED or self._nursery is None:
                    raise
        raise JobFailed(f"{MAX_STARTS} runners were stopped during the job", code=STOPPED)

    def running(self) -> list[RunnerStatus]:
        """Return what the runners are doing now."""
        return [_status(child) for child in self._children.values() if child.is_open]

    def estimate_s(
        self, model: InstalledModel, precision: str, items: int, size_bytes: int
    ) -> float | None:
        """Return how long a job would keep a runner busy, its start included if none is warm; None
        when nothing is known.
        """
        key = self._spec(model, precision).key
        child = self._children.get(key)
        is_warm = child is not None and child.is_loaded
        return self._throughput.estimate_s(key, items=items, size_bytes=size_bytes, is_warm=is_warm)

    def backlog(self, model: InstalledModel, precision: str) -> Backlog:
        """Return what a new job of this model would find here: what is in its runner, or on the
        whole node if it must run alone, and what waits before that, as far as is known.
        """
        before_s = self._lanes.ahead_s(trio.current_time())
        child = self._children.get(self._spec(model, precision).key)
        if not is_exclusive(model.kind):
            waiting_s = child.turns.waiting_s() if child else {}
            return Backlog(before_s + (child.turns.inside_s if child else 0.0), waiting_s)
        for busy in self._children.values():
            before_s += busy.turns.inside_s + sum(busy.turns.waiting_s().values())
        return Backlog(before_s, has_benchmark_waiting=self._lanes.has_benchmark_waiting)

    async def _run_in(
        self, child: RunnerChild, request: RunRequest, on_progress: OnProgress
    ) -> RunOutcome:
        def follow(done: int, total: int) -> None:
            child.turns.advanced(turn, done / total)
            on_progress(done, total)

        turn = Turn(request.submitter, request.items, len(request.input))
        turn.cost_s = self._cost_s(child, turn)
        child.users += 1
        try:
            await child.turns.enter(turn)
            try:
                outcome = await child.call(request.input, follow)
            finally:
                child.turns.leave(turn)
        finally:
            child.users -= 1
            child.last_used_at = trio.current_time()
        self._observe(child, request, outcome)
        if turn.cost_s is None:
            child.turns.price(lambda turn: self._cost_s(child, turn))
        return outcome

    def _cost_s(self, child: RunnerChild, turn: Turn) -> float | None:
        return self._throughput.estimate_s(
            child.spec.key, items=turn.items, size_bytes=turn.size_bytes, is_warm=True
        )

    def _observe(self, child: RunnerChild, request: RunRequest, outcome: RunOutcome) -> None:
        busy_s = float(outcome.timings["busy_ms"]) / 1_000
        self._throughput.observe(
            child.spec.key, items=request.items, size_bytes=len(request.input), busy_s=busy_s
        )
        if load_s := float(outcome.timings["load_ms"]) / 1_000:
            self._throughput.observe_load(child.spec.key, load_s)

    def _child(self, model: InstalledModel, precision: str) -> RunnerChild:
        """Return the runner for a model, starting it if there is none."""
        if self._nursery is None:
            raise LocalProtocolError("the runner pool is not being served")
        spec = self._spec(model, precision)
        child = self._children.get(spec.key)
        if child is None or not child.is_open:
            self._make_room()
            child = self._children[spec.key] = self._new_child(
                spec, self._effects.now_us(), trio.current_time()
            )
            self._nursery.start_soon(self._supervise, child)
        return child

    def _spec(self, model: InstalledModel, precision: str) -> RunnerSpec:
        return RunnerSpec(model, precision, threads=self._threads, batch_tokens=BATCH_TOKENS)

    def _make_room(self) -> None:
        """End the runner that was idle longest when there are as many as may be."""
        opened = [child for child in self._children.values() if child.is_open]
        if len(opened) < self._max_runners:
            return
        idle = [child for child in opened if not child.users]
        if not idle:
            raise JobFailed(
                f"all {len(opened)} runners are working on other models", code="runners-full"
            )
        min(idle, key=lambda child: child.last_used_at).stop("another model needs the room")

    async def _supervise(self, child: RunnerChild) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._unload_when_idle, child)
            await child.run()
            nursery.cancel_scope.cancel()
        if self._children.get(child.spec.key) is child:
            del self._children[child.spec.key]

    async def _unload_when_idle(self, child: RunnerChild) -> None:
        while True:
            rest_s = child.last_used_at + self._idle_unload_s - trio.current_time()
            if rest_s <= 0 and not child.users:
                child.stop("it was idle")
                return
            await trio.sleep(rest_s if rest_s > 0 else self._idle_unload_s)


def _check(request: RunRequest, model: InstalledModel) -> None:
    if request.kind != model.kind:
        raise JobFailed(
            f"model {model.name} is of kind {model.kind}, not {request.kind}", code="kind-mismatch"
        )
    if request.precision not in model.precisions:
        raise JobFailed(
            f"model {model.name} is not offered in {request.precision} here, "
            f"only in {', '.join(model.precisions)}",
            code="precision-unavailable",
        )


def _status(child: RunnerChild) -> RunnerStatus:
    return RunnerStatus(
        model=child.spec.model.name,
        precision=child.spec.precision,
        backend=child.spec.backend,
        pid=child.pid,
        state="loading" if not child.is_loaded else "working" if child.users else "idle",
        jobs=child.users,
        jobs_done=child.jobs_done,
        load_ms=child.load_ms,
        threads=child.spec.threads,
        started_us=child.started_us,
    )
