"""The life of a runner: load one model, then compute jobs until the daemon is gone.

What one job does wrong fails that job. Between two steps of the engine all messages that came are
handled, so jobs join and leave while others compute.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final

from node.manifest import ModelDamagedError, ModelError
from node.runner import kinds
from node.runner.channel import Channel
from node.runner.exhaustion import is_exhaustion
from node.runner.files import ModelFiles, read_manifest
from node.runner.kinds import (
    Advanced,
    BadInputError,
    BadOutputError,
    Broken,
    Engine,
    EngineSettings,
    Event,
    Finished,
    kind_named,
    runs_on,
)
from node.runner.messages import (
    LOAD_JOB,
    Cancel,
    Done,
    Emitted,
    Facts,
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
from protocols.limits import MAX_JOB_OUTPUT_BYTES, MAX_REASON_CHARS, RUNNER_PIECE_BYTES

CANCELLED: Final = "cancelled"
PIECES_A_TURN: Final = 16  # 2 MiB: some milliseconds, and little beside a step of a model


@dataclass(slots=True)
class _Incoming:
    size_bytes: int
    content: io.BytesIO = field(default_factory=io.BytesIO)

    def take(self, piece: bytes) -> bool:
        """Take in a piece; True when the input is whole."""
        self.content.write(piece)
        return self.content.tell() >= self.size_bytes


class Service:
    """Serves one daemon over one channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._incoming: dict[int, _Incoming] = {}
        self._inside: set[int] = set()
        """The jobs that the engine has."""
        self._outgoing: dict[int, Iterator[FromRunner]] = {}

    def run(self, order: Load) -> None:
        """Serve until the process ends; returns only when the model could not be loaded."""
        loaded = self._load(order)
        if loaded is None:
            return
        self._files, self._engine = loaded
        self._sandbox: Facts = {"sandbox": order.sandbox}
        while True:
            messages = self._channel.receive(wait=not (self._engine.is_busy or self._outgoing))
            answers = [answer for message in messages for answer in self._handle(message)]
            if self._engine.is_busy:
                answers += [answer for event in self._step() for answer in self._told(event)]
            self._channel.send(chain(answers, self._next_pieces()))

    def _load(self, order: Load) -> tuple[ModelFiles, Engine] | None:
        began = time.monotonic()
        try:
            files = _open_model(order)
            settings = EngineSettings(
                order.precision, order.threads, order.batch_tokens, order.device
            )
            engine = _engine(order.kind, files, settings)
            files.check_all()
        except Exception as error:  # noqa: BLE001 - the job boundary: whatever a model's files provoke is told, not died of
            self._channel.send([failure_of(LOAD_JOB, error, "model-unusable")])
            return None
        load_ms = round((time.monotonic() - began) * 1_000, 3)
        self._channel.send([Loaded(load_ms, {**engine.execution, "sandbox": order.sandbox})])
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
                self._outgoing.pop(message.job, None)
                self._inside.discard(message.job)
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
            self._engine.start(job, incoming.content.getvalue())
            self._inside.add(job)
        except Exception as error:  # noqa: BLE001 - the job boundary
            return [failure_of(job, error, "job-failed")]
        return []

    def _step(self) -> list[Event]:
        try:
            return self._engine.step()
        except Exception as error:  # noqa: BLE001 - the job boundary: whose fault it was cannot be told, later jobs find an engine without any
            jobs, self._inside = self._inside, set()
            for job in jobs:
                self._engine.cancel(job)
            return [Broken(job, error) for job in sorted(jobs)]

    def _told(self, event: Event) -> Iterator[FromRunner]:
        """Yield what is said of an event at once; an output follows in pieces."""
        match event:
            case Advanced():
                yield Progress(event.job, event.done, event.total)
            case kinds.Emitted():
                yield Emitted(event.job, event.piece)
            case Broken():
                self._inside.discard(event.job)
                yield failure_of(event.job, event.error, "job-failed")
            case Finished():
                self._inside.discard(event.job)
                yield from self._finished(event)

    def _finished(self, event: Finished) -> Iterator[FromRunner]:
        size_bytes = len(event.output)
        if size_bytes > MAX_JOB_OUTPUT_BYTES:
            said = f"the output has {size_bytes} bytes, over the limit of {MAX_JOB_OUTPUT_BYTES}"
            yield failure_of(event.job, BadOutputError(said, code="output-too-big"), "job-failed")
        elif size_bytes <= RUNNER_PIECE_BYTES:
            yield from self._output_of(event)
        else:
            self._outgoing[event.job] = self._output_of(event)

    def _next_pieces(self) -> Iterator[FromRunner]:
        """Yield some pieces of each large output, so that other jobs are not kept waiting for all
        of it.
        """
        for job, waiting in list(self._outgoing.items()):
            some = list(islice(waiting, PIECES_A_TURN))
            yield from some
            if isinstance(some[-1], Done):
                del self._outgoing[job]

    def _output_of(self, event: Finished) -> Iterator[FromRunner]:
        """Yield an output in pieces, the last one with how it was computed."""
        size_bytes, sent_bytes = len(event.output), 0
        for piece in pieces(event.output):
            sent_bytes += len(piece)
            if sent_bytes < size_bytes:
                yield Output(event.job, piece)
            else:
                yield Done(event.job, piece, event.execution | self._sandbox, event.timings)


def _open_model(order: Load) -> ModelFiles:
    folder = Path(order.folder)
    manifest = read_manifest(folder, order.name)
    if manifest.cid != order.cid:
        raise ModelDamagedError(
            f"the manifest of model {order.name} is not the one that was to be loaded"
        )
    if not runs_on(order.kind, manifest.kind):
        raise BadInputError(f"model {order.name} is of kind {manifest.kind}, not {order.kind}")
    return ModelFiles(folder, manifest)


def _engine(kind: str, files: ModelFiles, settings: EngineSettings) -> Engine:
    codec = kind_named(kind)
    if (why := codec.NEEDS.unmet()) is not None:
        raise ModelError(f"kind {kind} cannot run here: {why}", code="extra-missing")
    return codec.load(files, settings)


def failure_of(job: int, error: Exception, code: str) -> Failed:
    """Return what is told of a job that failed with ``error``: with the error's own code, or
    ``code`` where it has none.
    """
    if isinstance(error, CoveyError):
        code = error.code
    elif is_exhaustion(error):
        code = "out-of-memory"
    message = str(error) or type(error).__name__
    return Failed(job, code, message[:MAX_REASON_CHARS], exceptions_of(error))
