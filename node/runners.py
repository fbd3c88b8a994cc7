"""The node's runners: which models are in memory, and the way of a job to one of them.

A runner is a warm process for one (backend, kind, model, precision). It starts with the first job
that needs it and ends when idle, when it must make room, or with the daemon; a benchmark's ends
with its job. What happens inside a job stays its own: a crash fails the jobs in that runner, and
the next job gets a fresh one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict

import trio

from node.benchmarks import OF_MACHINE
from node.devices import CPU, ComputeDevice
from node.fair_queue import Asker, fair_wait_s
from node.lanes import UNKNOWN_BENCHMARK_S, Lanes, runs_alone
from node.models import InstalledModel, ModelStore
from node.places import joins_at_once
from node.runner.batcher import ACCELERATED_BATCH_TOKENS, BATCH_TOKENS
from node.runner.host import compute_threads, usable_cores
from node.runner.kinds import kind_named, runs_on
from node.runner.sandbox import AUTO, beside_device, choose
from node.runner_child import STOPPED, RunnerChild, RunnerSpec
from node.runner_job import OnPiece, OnProgress, RunOutcome
from node.throughput import Throughput
from peer.effects import Effects
from protocols.errors import JobFailed, LocalProtocolError
from protocols.limits import MAX_RUNNERS

IDLE_UNLOAD_S: Final = 300.0
MAX_STARTS: Final = (
    3  # runners that one job may see stopped under it, because of other jobs, before it fails
)

Key = tuple[str, str, bytes, str, str]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One job for a runner: which installed model, in which precision, on what. ``items`` is only
    for estimates; ``submitter`` is whose turn it takes.
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


@dataclass(slots=True, eq=False)
class _Active:
    key: Key
    request: RunRequest
    on_progress: OnProgress
    on_piece: OnPiece
    share_done: float = 0.0
    emitted_bytes: int = 0

    def follow(self, done: int, total: int) -> None:
        """Tell how far the job is."""
        self.share_done = done / total
        self.on_progress(done, total)

    def passing_on(self) -> OnPiece:
        """Return what a run is to be followed with: one that begins again repeats what was emitted
        before.
        """
        came_bytes = 0

        def pass_on(piece: bytes) -> None:
            nonlocal came_bytes
            new = piece[max(0, self.emitted_bytes - came_bytes) :]
            came_bytes += len(piece)
            if new:
                self.emitted_bytes = came_bytes
                self.on_piece(new)

        return pass_on


class RunnerPool:
    """Starts runners when jobs need them and ends them when they don't. ``serve`` must run while
    ``run`` is called.

    ``sandbox`` is what the configuration says; raises ``SandboxUnavailableError``.
    """

    def __init__(
        self,
        store: ModelStore,
        effects: Effects,
        *,
        idle_unload_s: float = IDLE_UNLOAD_S,
        max_runners: int = MAX_RUNNERS,
        sandbox: str = AUTO,
        device: ComputeDevice | None = None,
    ) -> None:
        self._device = device or ComputeDevice(CPU)
        self.sandbox = choose(sandbox)
        self._store = store
        self._effects = effects
        self._idle_unload_s = idle_unload_s
        self._max_runners = max_runners
        self._threads = compute_threads()  # read from a dozen files of the kernel
        self._cores = usable_cores()
        self._children: dict[Key, RunnerChild] = {}
        self._active: list[_Active] = []
        self._throughput = Throughput()
        self._lanes = Lanes()
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
        self,
        request: RunRequest,
        on_progress: OnProgress = lambda _done, _total: None,
        on_piece: OnPiece = lambda _piece: None,
    ) -> RunOutcome:
        """Run one job and return its outcome; ``on_progress(done, total)`` is called in this task.
        ``on_piece`` gets what comes of an output while it comes into being, of kinds that emit.

        Raises ``JobFailed``, ``ModelMissingError`` and ``ModelDamagedError``. Cancelling ends the
        job within two seconds, if need be by killing its runner; other jobs in it start again in a
        fresh one.
        """
        model = self._store.get(request.model)
        _check(request, model)
        model = model.used_for(request.kind)
        key = self._spec(model, request.precision).key
        active = _Active(key, request, on_progress, on_piece)
        self._active.append(active)
        try:
            async with self._lanes.lane(request.kind):
                return await self._run_somewhere(model, active)
        finally:
            self._active.remove(active)

    async def _run_somewhere(self, model: InstalledModel, active: _Active) -> RunOutcome:
        for _ in range(MAX_STARTS):
            child = self._child(model, active.request.precision)
            try:
                return await self._run_in(child, active)
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

    def learn(self, request: RunRequest, *, items: int, size_bytes: int, busy_s: float) -> None:
        """Expect the model of a benchmark to take so long for a job of that size."""
        key = self._spec(self._store.get(request.model), request.precision).key
        self._throughput.observe(key, items=items, size_bytes=size_bytes, busy_s=busy_s)

    def backlog_s(self, model: InstalledModel, precision: str, asker: Asker) -> float:
        """Return how long a job would wait for those that were given to its model's runner, and for
        benchmarks, as far as is known; a benchmark waits for all, and what joins others under way
        for none of them.
        """
        key, is_alone = self._spec(model, precision).key, runs_alone(model.kind)
        work_s: dict[str, float] = {}
        alone_s = 0.0
        for active in self._active:
            if is_alone or runs_alone(active.request.kind):
                alone_s += self._rest_s(active)
            elif active.key == key:
                submitter = active.request.submitter
                work_s[submitter] = work_s.get(submitter, 0.0) + self._rest_s(active)
        inside = [a.request.submitter for a in self._active if a.key == key]
        if joins_at_once(model.kind, inside.count(asker.submitter), len(inside)):
            return alone_s
        return alone_s + fair_wait_s(work_s, asker)

    def is_benchmark_waiting(self) -> bool:
        """Whether a benchmark waits until it is alone here."""
        return self._lanes.benchmarks_waiting > 0

    def _rest_s(self, active: _Active) -> float:
        unknown_s = UNKNOWN_BENCHMARK_S if runs_alone(active.request.kind) else 0.0
        cost_s = self._cost_s(active)
        return (unknown_s if cost_s is None else cost_s) * (1.0 - active.share_done)

    def _cost_s(self, active: _Active) -> float | None:
        request = active.request
        return self._throughput.estimate_s(
            active.key, items=request.items, size_bytes=len(request.input), is_warm=True
        )

    async def _run_in(self, child: RunnerChild, active: _Active) -> RunOutcome:
        request, active.share_done = active.request, 0.0
        child.users += 1
        try:
            async with child.turns.turn(request.submitter, self._cost_s(active)):
                outcome = await child.call(request.input, active.follow, active.passing_on())
        finally:
            child.users -= 1
            child.last_used_at = trio.current_time()
            if runs_alone(request.kind):
                child.stop("its benchmark is over")  # the next one shall not find a warm process
        self._observe(child, request, outcome)
        return outcome

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
        if child is not None and child.spec.model.inode != model.inode:
            # a confined runner cannot open the folder that took its own folder's name
            child.stop("its model was installed anew")
        if child is None or not child.is_open:
            self._make_room()
            child = self._children[spec.key] = RunnerChild(
                spec, self._effects.now_us(), trio.current_time()
            )
            self._nursery.start_soon(self._supervise, child)
        return child

    def _spec(self, model: InstalledModel, precision: str) -> RunnerSpec:
        is_accelerated = kind_named(model.kind).IS_ACCELERATED
        device = self._device.name if is_accelerated else CPU
        return RunnerSpec(
            model,
            precision,
            threads=self._cores if model.kind in OF_MACHINE else self._threads,
            batch_tokens=BATCH_TOKENS if device == CPU else ACCELERATED_BATCH_TOKENS,
            sandbox=beside_device(self.sandbox.level, device),
            device=device,
        )

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
    if not runs_on(request.kind, model.kind):
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
