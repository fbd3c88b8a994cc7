"""One runner process, seen from the daemon: started, spoken to, and ended.

Everything to the process goes through one queue and one writer, so that a cancelled job cannot
leave half a frame in the pipe. When the process ends, however it does, every job in it fails at
once, and ``is_open`` is false before any of them hears of it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypedDict

import trio
from trio.lowlevel import FdStream

from node.models import InstalledModel
from node.places import jobs_inside
from node.runner.environment import child_environment
from node.runner.host import resident_bytes
from node.runner.messages import (
    FROM_RUNNER,
    LOAD_JOB,
    TO_RUNNER,
    Cancel,
    Done,
    Emitted,
    Failed,
    FrameBuffer,
    FromRunner,
    Input,
    Load,
    Loaded,
    Output,
    Progress,
    Run,
    ToRunner,
    frames,
    pieces,
)
from node.runner_job import OnPiece, OnProgress, RunnerJob, RunOutcome
from node.runner_room import Holder, needed_bytes
from node.turns import Turns
from peer.scrub import scrub
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_REASON_CHARS, MAX_RUNNER_STDERR_BYTES

CRASHED: Final = "runner-crashed"
STOPPED: Final = "runner-stopped"
LOAD_WITHIN_S: Final = 120.0  # a cold disk and a busy machine; MiniLM takes 3 s on a quiet one
CANCEL_GRACE_S: Final = 2.0  # a batch takes a fraction of a second
OUTBOX_MESSAGES: Final = 16  # 2 MiB of input pieces on their way
READ_BYTES: Final = 1 << 18
SHOWN_STDERR_CHARS: Final = 600  # of the last words, in the message of a crash

log = logging.getLogger(__name__)

_reaping = trio.CapacityLimiter(8)


Key = tuple[str, str, bytes, str, str]


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """Which model a runner holds, and how it computes."""

    model: InstalledModel
    precision: str
    threads: int
    batch_tokens: int
    sandbox: str
    device: str = "cpu"
    backend: str = "torch"
    memory_bytes: int = 0
    """The most that it may have; 0 for what all runners may have together."""
    key: Key = field(init=False, compare=False)
    """Jobs with the same key can share a runner; a benchmark of a model shares none with its
    jobs.
    """

    def __post_init__(self) -> None:
        model = self.model
        key = self.backend, model.kind, bytes(model.cid), self.precision, self.device
        object.__setattr__(self, "key", key)

    @property
    def needed_bytes(self) -> int:
        """What it takes at most, as far as can be told beforehand."""
        return needed_bytes(self.model, self.precision, self.threads)


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


class RunnerChild:
    """A runner process and the jobs in it. ``run`` owns the process; everything else works only
    while it runs.
    """

    def __init__(self, spec: RunnerSpec, started_us: int, now: float) -> None:
        self.spec = spec
        self.started_us = started_us
        self.is_open = True
        self.jobs_done = 0
        self.load_ms = 0.0
        self.last_used_at = now
        self.turns = Turns(jobs_inside(spec.model.kind))
        self.users = 0
        """Jobs that are here or on their way; only a runner without any may be unloaded."""
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: dict[int, RunnerJob] = {}
        self._last_job = LOAD_JOB
        self._loaded = trio.Event()
        self._end: Failed | None = None
        self._is_over = False
        self._stderr = b""
        self._outbox, self._to_write = trio.open_memory_channel[ToRunner](OUTBOX_MESSAGES)
        self._outbox.send_nowait(_load(spec))  # ahead of every job
        self._scope = trio.CancelScope()

    @property
    def pid(self) -> int | None:
        """The process, once it was started."""
        return self._process.pid if self._process else None

    @property
    def status(self) -> RunnerStatus:
        """What it is doing now."""
        return RunnerStatus(
            model=self.spec.model.name,
            precision=self.spec.precision,
            backend=self.spec.backend,
            pid=self.pid,
            state="loading" if not self.is_loaded else "working" if self.users else "idle",
            jobs=self.users,
            jobs_done=self.jobs_done,
            load_ms=self.load_ms,
            threads=self.spec.threads,
            started_us=self.started_us,
        )

    def holder(self, *, is_alone: bool = False) -> Holder:
        """The memory that it holds; it counts as idle for what waits until it is alone."""
        need, pid = self.spec.needed_bytes, self.pid
        return Holder(
            need_bytes=need,
            granted_bytes=self.spec.memory_bytes or need,
            resident_bytes=resident_bytes(pid) if pid else 0,
            is_idle=is_alone or not self.users,
            last_used_at=self.last_used_at,
        )

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded.is_set() and self._end is None

    async def run(self) -> None:
        """Start the process and serve it until it ends, is stopped, or this call is cancelled; then
        no process is left.
        """
        try:
            await self._serve()
        except OSError as error:
            self.stop(f"a runner cannot be started: {error.strerror}", CRASHED)
        except trio.Cancelled:
            self.stop("the daemon stops")
            raise
        except Exception as error:
            log.exception("a runner could not be followed", extra={"pid": self.pid})
            self.stop(f"the runner could not be followed: {type(error).__name__}", CRASHED)
        finally:
            self.is_open = False
            with trio.CancelScope(shield=True):
                await self._reap()
            self._fail_all()

    async def _serve(self) -> None:
        stdin, stdout, stderr = self._start()
        async with stdin, stdout, stderr, trio.open_nursery() as nursery:
            with self._scope:
                nursery.start_soon(self._write, stdin)
                nursery.start_soon(self._limit_load)
                nursery.start_soon(self._read, stdout)
                # it ends when the process does, and only then are its last words complete
                await self._keep_stderr(stderr)
            nursery.cancel_scope.cancel()

    def stop(self, why: str, code: str = STOPPED) -> None:
        """End the process without waiting; jobs in it fail with ``code``. Does nothing the second
        time.
        """
        self.is_open = False
        if self._end is None:
            self._end = Failed(LOAD_JOB, code, why)
        self._scope.cancel()

    async def call(self, content: bytes, on_progress: OnProgress, on_piece: OnPiece) -> RunOutcome:
        """Run one job and return its outcome; raises ``JobFailed``. ``on_piece`` is called in the
        reader's task and must neither block nor raise.

        When cancelled, returns once the runner gave the job up, or was killed because it did not
        within ``CANCEL_GRACE_S``.
        """
        self._last_job += 1
        number = self._last_job
        job = RunnerJob(on_piece, ended=self._end if self._is_over else None)
        self._jobs[number] = job
        load_since = None if self._loaded.is_set() else trio.current_time()
        try:
            with suppress(trio.BrokenResourceError):  # it ended, and the job will hear why
                await self._submit(number, content)
            if load_since is not None:
                await self._loaded.wait()
            load_s = 0.0 if load_since is None else trio.current_time() - load_since
            await job.follow(on_progress)
        finally:
            if job.ended is None:
                with trio.CancelScope(shield=True):
                    await self._give_up(number, job)
            del self._jobs[number]
        outcome = job.outcome(load_s)
        self.jobs_done += 1
        return outcome

    def _start(self) -> tuple[FdStream, FdStream, FdStream]:
        """Start the process and return its stdin, stdout and stderr."""
        their_in, stdin = os.pipe()
        stdout, their_out = os.pipe()
        stderr, their_err = os.pipe()
        streams = FdStream(stdin), FdStream(stdout), FdStream(stderr)
        try:
            # Not trio.open_process: it forks from a worker thread, and Linux sends the parent-death
            # signal when the *thread* that forked ends, for an idle worker thread after ten
            # seconds. Starting a process blocks for about a millisecond.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-X", "faulthandler", "-m", "node.runner", str(os.getpid())],
                stdin=their_in,
                stdout=their_out,
                stderr=their_err,
                env=child_environment(os.environ, self.spec.threads),
                cwd="/",
                # an interrupt at the terminal is for the daemon alone, which drains first
                start_new_session=True,
            )
        except OSError:
            for stream in streams:
                stream.close()
            raise
        finally:
            for descriptor in (their_in, their_out, their_err):
                os.close(descriptor)
        return streams

    async def _submit(self, number: int, content: bytes) -> None:
        waiting = pieces(content)
        await self._put(Run(number, len(content), next(waiting)))
        for piece in waiting:
            await self._put(Input(number, piece))

    async def _put(self, message: ToRunner) -> None:
        """Queue a message, at once where there is room: waiting would be another turn of the
        loop.
        """
        try:
            self._outbox.send_nowait(message)
        except trio.WouldBlock:
            await self._outbox.send(message)

    async def _give_up(self, number: int, job: RunnerJob) -> None:
        """Have the runner drop a job. While it loads it cannot answer, and need not: it drops the
        job before it computes.
        """
        with trio.move_on_after(CANCEL_GRACE_S), suppress(trio.BrokenResourceError):
            await self._outbox.send(Cancel(number))
            while job.ended is None and self._loaded.is_set():
                await job.change()
            return
        if job.ended is None:
            self.stop("the runner was stopped because a cancelled job went on")

    async def _write(self, stdin: FdStream) -> None:
        with suppress(trio.BrokenResourceError):  # the reader finds out why
            async with self._to_write:
                async for message in self._to_write:
                    # a load goes alone: the runner is confined before it decodes anything else
                    more = [] if isinstance(message, Load) else self._waiting()
                    for frame in frames(TO_RUNNER, [message, *more]):
                        await stdin.send_all(frame)

    def _waiting(self) -> list[ToRunner]:
        messages: list[ToRunner] = []
        with suppress(trio.WouldBlock):
            while True:
                messages.append(self._to_write.receive_nowait())
        return messages

    async def _read(self, stdout: FdStream) -> None:
        buffer = FrameBuffer()
        try:
            while received := await stdout.receive_some(READ_BYTES):
                for payload in buffer.feed(received):
                    for message in FROM_RUNNER.decode(payload):
                        self._take(message)
        except RemoteProtocolError as error:
            self.stop(f"the runner's bytes make no sense: {error}", CRASHED)

    def _take(self, message: FromRunner) -> None:
        match message:
            case Loaded():
                self.load_ms = message.load_ms
                self._loaded.set()
            case Failed(job=0):
                self._end = message
                self.is_open = False
            case Progress() | Output() | Done() | Failed() | Emitted():
                job = self._jobs.get(message.job)
                if job is not None:
                    job.take(message)

    async def _keep_stderr(self, stderr: FdStream) -> None:
        while received := await stderr.receive_some(READ_BYTES):
            self._stderr = (self._stderr + received)[-MAX_RUNNER_STDERR_BYTES:]

    async def _limit_load(self) -> None:
        with trio.move_on_after(LOAD_WITHIN_S):
            await self._loaded.wait()
            return
        self.stop(f"the model was not loaded within {LOAD_WITHIN_S:.0f} s", "model-load-timeout")

    async def _reap(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        await trio.to_thread.run_sync(self._process.wait, limiter=_reaping)

    def _fail_all(self) -> None:
        """Tell every job that is still here, and those who wait for the load."""
        if self._end is None:
            self._end = Failed(LOAD_JOB, CRASHED, self._crash())
        for job in self._jobs.values():
            job.end(self._end)
        self._is_over = True
        self._to_write.close()
        self._loaded.set()

    def _crash(self) -> str:
        assert self._process is not None
        how = _ending(self._process.returncode)
        said = scrub(self._stderr.decode(errors="replace").strip())[-SHOWN_STDERR_CHARS:]
        message = f"the runner of {self.spec.model.name} ended {how}"
        return (f"{message}: {said}" if said else message)[:MAX_REASON_CHARS]


def _load(spec: RunnerSpec) -> Load:
    model = spec.model
    return Load(
        folder=str(model.path.absolute()),
        name=model.name,
        cid=bytes(model.cid),
        kind=model.kind,
        precision=spec.precision,
        threads=spec.threads,
        batch_tokens=spec.batch_tokens,
        sandbox=spec.sandbox,
        device=spec.device,
        memory_bytes=spec.memory_bytes,
    )


def _ending(status: int) -> str:
    """Say how a process ended; most real-time signals have no name."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by signal {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
