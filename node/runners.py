"""The node's runners: which models are in memory, and the way of a job to one of them.

A runner is a warm process for one (backend, kind, model, precision). It starts with the first job
that needs it and ends when idle, when it must make room, or with the daemon; a benchmark's ends
with its job. What happens inside a job stays its own: a crash fails the jobs in that runner, and
the next job gets a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import trio

from node import foresight
from node.benchmarks import OF_MACHINE
from node.devices import CPU, ComputeDevice
from node.fair_queue import Asker, fair_wait_s
from node.lanes import UNKNOWN_BENCHMARK_S, Lanes, runs_alone
from node.models import InstalledModel, ModelStore
from node.places import joins_at_once
from node.requirements import accelerator
from node.run_request import ActiveRun, RunRequest
from node.runner.batcher import ACCELERATED_BATCH_TOKENS, BATCH_TOKENS
from node.runner.host import compute_threads, usable_cores
from node.runner.kinds import kind_named, runs_on
from node.runner.sandbox import AUTO, beside_device, choose
from node.runner_child import STOPPED, Key, RunnerChild, RunnerSpec, RunnerStatus
from node.runner_job import OnPiece, OnProgress, RunOutcome
from node.runner_room import (
    CAPACITY,
    Capacity,
    NoRoom,
    Room,
    room_for,
)
from node.throughput import Throughput
from peer.effects import Effects
from protocols.errors import JobFailed, LocalProtocolError
from protocols.job import TOO_LITTLE_MEMORY

IDLE_UNLOAD_S: Final = 300.0
MAX_STARTS: Final = (
    3  # runners that one job may see stopped under it, because of other jobs, before it fails
)


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
        sandbox: str = AUTO,
        device: ComputeDevice | None = None,
        capacity: Capacity = CAPACITY,
    ) -> None:
        self.capabilities: Callable[[], Mapping[str, Any]] = dict
        """What this machine was measured to do, as soon as it was."""
        self._device = device or ComputeDevice(CPU)
        self.sandbox = choose(sandbox)
        self._store = store
        self._effects = effects
        self._idle_unload_s = idle_unload_s
        self._capacity = capacity
        self._threads = compute_threads()  # read from a dozen files of the kernel
        self._cores = usable_cores()
        self._children: dict[Key, RunnerChild] = {}
        self._active: list[ActiveRun] = []
        self._specs: dict[tuple[str, str, str], RunnerSpec] = {}
        """By model, kind and precision: those that were asked for last."""
        self._throughput = Throughput()
        self._lanes = Lanes()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._freed = trio.Event()
        """Set, and made anew, when a runner fell idle or ended."""

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
                        self._wake()
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
        if self._nursery is None:
            raise LocalProtocolError("the runner pool is not being served")
        model = self._store.get(request.model)
        _check(request, model)
        model = model.used_for(request.kind)
        key = self._spec(model, request.precision).key
        work_s = self._foreseen_work_s(model, request.precision, request.units, len(request.input))
        active = ActiveRun(key, request, on_progress, on_piece, work_s or 0.0)
        self._active.append(active)
        try:
            async with self._lanes.lane(request.kind):
                return await self._run_somewhere(active)
        finally:
            self._active.remove(active)

    async def _run_somewhere(self, active: ActiveRun) -> RunOutcome:
        for _ in range(MAX_STARTS):
            child = await self._child(active)
            try:
                return await self._run_in(child, active)
            except JobFailed as failed:
                if failed.code != STOPPED or self._nursery is None:
                    raise
        raise JobFailed(f"{MAX_STARTS} runners were stopped during the job", code=STOPPED)

    def running(self) -> list[RunnerStatus]:
        """Return what the runners are doing now."""
        return [child.status for child in self._children.values() if child.is_open]

    def estimate_s(
        self, model: InstalledModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """Return how long a job would keep a runner busy, its start included if none is warm; None
        when no job before it tells.
        """
        key = self._spec(model, precision).key
        return self._throughput.estimate_s(
            key, units=units, size_bytes=size_bytes, is_warm=self._is_warm(key)
        )

    def foreseen_s(
        self, model: InstalledModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """Return the same going by the model and what the machine was measured to do; None when
        nothing can be said.
        """
        if (work_s := self._foreseen_work_s(model, precision, units, size_bytes)) is None:
            return None
        is_warm = self._is_warm(self._spec(model, precision).key)
        return work_s + (0.0 if is_warm else foresight.load_s(_weights(model, precision)))

    def _foreseen_work_s(
        self, model: InstalledModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        told, is_accelerated = self.capabilities(), self._spec(model, precision).device != CPU
        figures = accelerator(told) if is_accelerated else told
        if figures is None:
            return None
        weights = _weights(model, precision)
        return foresight.work_s(model.kind, weights, units, size_bytes, figures)

    def _is_warm(self, key: Key) -> bool:
        child = self._children.get(key)
        return child is not None and child.is_loaded

    def learn(self, request: RunRequest, *, units: int, size_bytes: int, busy_s: float) -> None:
        """Expect the model of a benchmark to take so long for a job of that size."""
        key = self._spec(self._store.get(request.model), request.precision).key
        self._throughput.observe(key, units=units, size_bytes=size_bytes, busy_s=busy_s)

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

    def _rest_s(self, active: ActiveRun) -> float:
        cost_s = self._cost_s(active)
        if cost_s is None:
            cost_s = UNKNOWN_BENCHMARK_S if runs_alone(active.request.kind) else active.foreseen_s
        return cost_s * (1.0 - active.share_done)

    def _cost_s(self, active: ActiveRun) -> float | None:
        request = active.request
        return self._throughput.estimate_s(
            active.key, units=request.units, size_bytes=len(request.input), is_warm=True
        )

    async def _run_in(self, child: RunnerChild, active: ActiveRun) -> RunOutcome:
        request, active.share_done = active.request, 0.0
        child.users += 1
        try:
            async with child.turns.turn(request.submitter, self._cost_s(active)):
                outcome = await child.call(request.input, active.follow, active.passing_on())
        finally:
            child.users -= 1
            child.last_used_at = trio.current_time()
            self._wake()
            if runs_alone(request.kind):
                child.stop("its benchmark is over")  # the next one shall not find a warm process
        self._observe(child, request, outcome)
        return outcome

    def _observe(self, child: RunnerChild, request: RunRequest, outcome: RunOutcome) -> None:
        busy_s = float(outcome.timings["busy_ms"]) / 1_000
        self._throughput.observe(
            child.spec.key, units=request.units, size_bytes=len(request.input), busy_s=busy_s
        )
        if load_s := float(outcome.timings["load_ms"]) / 1_000:
            self._throughput.observe_load(child.spec.key, load_s)

    async def _child(self, active: ActiveRun) -> RunnerChild:
        """Return the runner for a job, starting it if there is none, once there is room for it."""
        while (nursery := self._nursery) is not None:
            spec = self._spec_now(active)
            child = self._children.get(spec.key)
            if child is not None and child.spec.model.inode != spec.model.inode:
                # a confined runner cannot open the folder that took its own folder's name
                child.stop("its model was installed anew")
            if child is not None and child.is_open:
                return child
            found = self._room_for(spec)
            if isinstance(found, Room):
                return self._start(spec, found, nursery)
            if found.is_lasting:
                raise JobFailed(f"{spec.model.name}: {found.reason}", code=TOO_LITTLE_MEMORY)
            await self._freed.wait()
        raise JobFailed("the runners were stopped before the job had one", code=STOPPED)

    def _spec_now(self, active: ActiveRun) -> RunnerSpec:
        """Return the runner that a job wants, on the folder where its model is now."""
        request = active.request
        model = self._store.get(request.model)
        _check(request, model)
        spec = self._spec(model.used_for(request.kind), request.precision)
        if spec.key != active.key:
            raise JobFailed(
                f"another model was installed as {model.name} meanwhile", code="model-changed"
            )
        return spec

    def _start(self, spec: RunnerSpec, room: Room, nursery: trio.Nursery) -> RunnerChild:
        opened = self._opened()
        for place in room.ending:
            opened[place].stop("another model needs the room")
        granted = room.granted_bytes if spec.device == CPU else 0  # drivers map more than they use
        child = self._children[spec.key] = RunnerChild(
            replace(spec, memory_bytes=granted), self._effects.now_us(), trio.current_time()
        )
        nursery.start_soon(self._supervise, child)
        return child

    def _spec(self, model: InstalledModel, precision: str) -> RunnerSpec:
        is_accelerated = kind_named(model.kind).IS_ACCELERATED
        device = self._device.name if is_accelerated else CPU
        wanted = model.name, model.kind, precision
        known = self._specs.get(wanted)
        if known is not None and known.model is model and known.device == device:
            return known
        spec = self._specs[wanted] = RunnerSpec(
            model,
            precision,
            threads=self._cores if model.kind in OF_MACHINE else self._threads,
            batch_tokens=BATCH_TOKENS if device == CPU else ACCELERATED_BATCH_TOKENS,
            sandbox=beside_device(self.sandbox.level, device),
            device=device,
        )
        return spec

    def no_room(self, model: InstalledModel, precision: str) -> NoRoom | None:
        """Say why no runner could hold this model now, and when to ask again; None when one does,
        or could. A benchmark of the machine waits until all others are idle.
        """
        spec = self._spec(model, precision)
        child = self._children.get(spec.key)
        if child is not None and child.is_open:
            return None
        found = self._room_for(spec, is_alone=runs_alone(model.kind))
        if isinstance(found, Room):
            return None
        return found if found.is_lasting else replace(found, retry_s=self._freed_in_s())

    def _freed_in_s(self) -> float:
        """Return when the first runner will be idle, as far as is known."""
        work_s: dict[Key, float] = {}
        for active in self._active:
            work_s[active.key] = work_s.get(active.key, 0.0) + self._rest_s(active)
        return min(work_s.values(), default=0.0)

    def _room_for(self, spec: RunnerSpec, *, is_alone: bool = False) -> Room | NoRoom:
        holders = [child.holder(is_alone=is_alone) for child in self._opened()]
        return room_for(spec.needed_bytes, holders, self._capacity)

    def _opened(self) -> list[RunnerChild]:
        return [child for child in self._children.values() if child.is_open]

    def _wake(self) -> None:
        self._freed.set()
        self._freed = trio.Event()

    async def _supervise(self, child: RunnerChild) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._unload_when_idle, child)
            await child.run()
            nursery.cancel_scope.cancel()
        if self._children.get(child.spec.key) is child:
            del self._children[child.spec.key]
        self._wake()

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


def _weights(model: InstalledModel, precision: str) -> foresight.Weights:
    manifest = model.manifest
    size_bytes, stored = manifest.size_bytes, manifest.precision
    return foresight.Weights(size_bytes, stored, precision, manifest.max_tokens)
