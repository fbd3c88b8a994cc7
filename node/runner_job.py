"""One job inside a runner, as the daemon follows it: how far it is, its output so far, and its end.

A runner may have been taken over by a job: what it says is bounded here, whatever it says.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from node.runner.messages import Done, Emitted, Facts, Failed, Output, Progress
from protocols.errors import JobFailed, RemoteProtocolError
from protocols.limits import MAX_JOB_OUTPUT_BYTES

OnProgress = Callable[[int, int], None]
OnPiece = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a runner computed, how, and how long it took in milliseconds."""

    output: bytes
    execution: Facts
    timings: Facts


@dataclass(slots=True)
class RunnerJob:
    """``on_piece`` is called with what is emitted, by ``take``; it must neither block nor raise."""

    on_piece: OnPiece
    ended: Done | Failed | None = None
    _output: io.BytesIO = field(default_factory=io.BytesIO)
    _progress: tuple[int, int] | None = None
    _changed: trio.Event = field(default_factory=trio.Event)

    def take(self, message: Progress | Output | Done | Failed | Emitted) -> None:
        """Take in what the runner says of this job.

        Raises ``RemoteProtocolError`` past ``MAX_JOB_OUTPUT_BYTES`` of output.
        """
        match message:
            case Emitted():
                self._add(message.piece)
                self.on_piece(message.piece)
                return
            case Output():
                self._add(message.piece)
                return
            case Progress():
                self._progress = (message.done, message.total)
            case Done():
                self._add(message.piece)
                self.ended = message
            case Failed():
                self.ended = message
        self._wake()

    def end(self, failed: Failed) -> None:
        """Its runner is no more; does nothing when the job has ended."""
        if self.ended is None:
            self.ended = failed
            self._wake()

    async def change(self) -> None:
        """Wait until it is further, or has ended, than now."""
        await self._changed.wait()

    async def follow(self, on_progress: OnProgress) -> None:
        """Pass on how far the job is until it has ended."""
        told = None
        while self.ended is None:
            await self.change()
            if self._progress is not None and self._progress != told:
                told = self._progress
                on_progress(*told)

    def outcome(self, load_s: float) -> RunOutcome:
        """Return what came of a job that has ended, whose model took ``load_s`` to load; raises
        ``JobFailed``.
        """
        match self.ended:
            case Done() as done:
                timings: Facts = {**done.timings, "load_ms": round(load_s * 1_000, 3)}
                return RunOutcome(self._output.getvalue(), done.execution, timings)
            case Failed() as failed:
                raise JobFailed(failed.message, code=failed.code, exceptions=failed.exceptions)
            case None:
                raise AssertionError("a job that was followed has ended")

    def _add(self, piece: bytes) -> None:
        if self._output.tell() + len(piece) > MAX_JOB_OUTPUT_BYTES:
            self._output = io.BytesIO()
            raise RemoteProtocolError(
                f"the output of one job is over the limit of {MAX_JOB_OUTPUT_BYTES} bytes"
            )
        self._output.write(piece)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
