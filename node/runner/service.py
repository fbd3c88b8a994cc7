"""The life of a runner: load one model, then compute jobs until the daemon is gone.

What one job does wrong fails that job. Between two steps of the engine all messages that came are
handled, so jobs join and leave while others compute.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.benchmarks import serves
from node.manifest import ModelDamagedError
from node.runner.channel import Channel
from node.runner.files import ModelFiles, read_manifest
from node.runner.kinds import (
    Advanced,
    BadInputError,
    Broken,
    Engine,
    EngineSettings,
    Event,
    Finished,
    kind_named,
)
from node.runner.messages import (
    LOAD_JOB,
    Cancel,
    Done,
    Failed,
    FromRunner,
    Input,
    Load,
    Loaded,
    Output,
    Progress,
    Run,
    ToRunner,
    pieces,
)
from peer.capture import exceptions_of
from protocols.errors import CoveyError
from protocols.limits import MAX_REASON_CHARS

CANCELLED: Final = "cancelled"


@dataclass(slots=True)
class _Incoming:
    size_bytes: int
    pieces: list[bytes] = field(default_factory=list[bytes])
    got_bytes: int = 0

    def take(self, piece: bytes) -> bool:
        """Take in a piece; True when the input is whole."""
        self.pieces.append(piece)
        self.got_bytes += len(piece)
        return self.got_bytes >= self.size_bytes


class Service:
    """Serves one daemon over one channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._incoming: dict[int, _Incoming] = {}

    def run(self) -> None:
        """Serve until the process ends; returns only when the model could not be loaded."""
        first, *rest = self._channel.receive(wait=True)
        assert isinstance(first, Load)
        loaded = self._load(first)
        if loaded is None:
            return
        self._files, self._engine = loaded
        while True:
            answers = [answer for message in rest for answer in self._handle(message)]
            if self._engine.is_busy:
                answers += [answer for event in self._engine.step() for answer in _answers(event)]
            self._channel.send(answers)
            rest = self._channel.receive(wait=not self._engine.is_busy)

    def _load(self, order: Load) -> tuple[ModelFiles, Engine] | None:
        began = time.monotonic()
        try:
            files = _open_model(order)
            settings = EngineSettings(order.precision, order.threads, order.batch_tokens)
            engine = kind_named(order.kind).load(files, settings)
            files.check_all()
        except Exception as error:  # noqa: BLE001 - the job boundary: whatever a model's files provoke is told, not died of
            self._channel.send([_failure(LOAD_JOB, error, "model-unusable")])
            return None
        load_ms = round((time.monotonic() - began) * 1_000, 3)
        self._channel.send([Loaded(load_ms, engine.execution)])
        return files, engine

    def _handle(self, message: ToRunner) -> list[FromRunner]:
        match message:
            case Run():
                self._incoming[message.job] = _Incoming(message.size_bytes)
                return self._take(message.job, message.piece)
            case Input():
                return self._take(message.job, message.piece)
            case Cancel():
                # answered even when unknown: the daemon may give up a job that it never got to send
                self._incoming.pop(message.job, None)
                self._engine.cancel(message.job)
                return [Failed(message.job, CANCELLED, "the job was cancelled")]
            case Load():
                raise AssertionError("a runner holds one model for life")

    def _take(self, job: int, piece: bytes) -> list[FromRunner]:
        incoming = self._incoming.get(job)
        if incoming is None or not incoming.take(piece):
            return []
        del self._incoming[job]
        try:
            self._files.check_changed()
            self._engine.start(job, b"".join(incoming.pieces))
        except Exception as error:  # noqa: BLE001 - the job boundary
            return [_failure(job, error, "job-failed")]
        return []


def _open_model(order: Load) -> ModelFiles:
    folder = Path(order.folder)
    manifest = read_manifest(folder, order.name)
    if manifest.cid != order.cid:
        raise ModelDamagedError(
            f"the manifest of model {order.name} is not the one that was to be loaded"
        )
    if not serves(manifest.kind, order.kind):
        raise BadInputError(f"model {order.name} is of kind {manifest.kind}, not {order.kind}")
    return ModelFiles(folder, manifest)


def _answers(event: Event) -> list[FromRunner]:
    match event:
        case Advanced():
            return [Progress(event.job, event.done, event.total)]
        case Broken():
            return [_failure(event.job, event.error, "job-failed")]
        case Finished():
            *before, last = pieces(event.output)
            done = Done(event.job, len(event.output), last, event.execution, event.timings)
            return [*(Output(event.job, piece) for piece in before), done]


def _failure(job: int, error: Exception, code: str) -> Failed:
    if isinstance(error, CoveyError):
        code = error.code
    elif isinstance(error, MemoryError):
        code = "out-of-memory"
    message = str(error) or type(error).__name__
    return Failed(job, code, message[:MAX_REASON_CHARS], exceptions_of(error))
