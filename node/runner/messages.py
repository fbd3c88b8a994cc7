"""What the daemon and a runner say to each other: messages in ``u32 length | CBOR array`` frames
over the runner's stdin and stdout.

Inputs and outputs are cut into pieces of ``RUNNER_PIECE_BYTES``, so a frame stays within
``MAX_FRAME_BYTES``. Job numbers are the daemon's, ascending from 1; number 0 is the load of the
model. See ``docs/protocols/runner.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, TypeVar

import msgspec

from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_FRAME_BYTES, MAX_MESSAGES_PER_FRAME, RUNNER_PIECE_BYTES
from protocols.report import ExceptionInfo
from protocols.wire import LENGTH, MessageCodec

M = TypeVar("M")

LOAD_JOB: Final = 0

Facts = dict[str, int | float | str]

MAX_TIME_MS: Final = 1e11  # three years; a sum of a few of them is still a number
BUSY: Final = "busy_ms"
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
Timings = dict[str, Milliseconds]


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Daemon: confine yourself to ``sandbox`` and hold this model. The first message, sent once and
    in a frame of its own.
    """

    folder: str
    name: str
    cid: bytes
    kind: str
    precision: str
    threads: int
    batch_tokens: int
    sandbox: str
    device: str
    memory_bytes: int = 0
    """The most that it may have; 0 for what all runners may have together."""


class Run(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Daemon: compute this job; ``piece`` is the beginning of its ``size_bytes`` of input."""

    job: int
    size_bytes: int
    piece: bytes


class Input(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Daemon: the next piece of a job's input."""

    job: int
    piece: bytes


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Daemon: give up a job; answered by ``Failed`` with code ``cancelled``, or by its outcome if
    that was quicker.
    """

    job: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Runner: the model is held, and how it computes."""

    load_ms: Milliseconds
    execution: Facts

    def __post_init__(self) -> None:
        _check_finite(self.load_ms)


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Runner: so many of a job's items are done, of at least one."""

    job: int
    done: Count
    total: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]

    def __post_init__(self) -> None:
        if self.done > self.total:
            raise ValueError(f"{self.done} of {self.total} items cannot be done")


class Output(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Runner: the next piece of a job's output, which may come while the job still runs."""

    job: int
    piece: bytes


class Done(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Runner: a job is done; ``piece`` is the end of its output. ``busy_ms`` is among its
    ``timings``.
    """

    job: int
    piece: bytes
    execution: Facts
    timings: Timings

    def __post_init__(self) -> None:
        if BUSY not in self.timings:
            raise ValueError(f"the timings of a job have no {BUSY}")
        for each in self.timings.values():
            _check_finite(each)


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Runner: a job, or the load, failed; ``exceptions`` is the chain, outermost first."""

    job: int
    code: str
    message: str
    exceptions: tuple[ExceptionInfo, ...] = ()


class Emitted(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Runner: the next piece of a job's output, told while it comes into being."""

    job: int
    piece: bytes


ToRunner = Load | Run | Input | Cancel
FromRunner = Loaded | Progress | Output | Done | Failed | Emitted

TO_RUNNER: Final[MessageCodec[ToRunner]] = MessageCodec(ToRunner)
FROM_RUNNER: Final[MessageCodec[FromRunner]] = MessageCodec(FromRunner)

_OVERHEAD_BYTES: Final = 2 << 10  # more than any message but a failure needs besides its piece
_FULL_BYTES: Final = RUNNER_PIECE_BYTES + 32 * _OVERHEAD_BYTES
_FAILURE_BYTES: Final = 640 << 10  # the longest chain of exceptions that a report may hold


def frames(codec: MessageCodec[M], messages: Iterable[M]) -> Iterator[bytes]:
    """Yield frames, length included, that carry ``messages`` in order: many small ones in one, and
    one large piece, for whoever decodes a frame does nothing else meanwhile.
    """
    waiting: list[M] = []
    size = 0
    for message in messages:
        weight = _weight(message)
        if waiting and (size + weight > _FULL_BYTES or len(waiting) == MAX_MESSAGES_PER_FRAME):
            yield _frame(codec.encode(waiting))
            waiting, size = [], 0
        waiting.append(message)
        size += weight
    if waiting:
        yield _frame(codec.encode(waiting))


def pieces(content: bytes) -> Iterator[bytes]:
    """Cut ``content`` into pieces as they are needed; one empty piece when there is nothing."""
    for start in range(0, max(1, len(content)), RUNNER_PIECE_BYTES):
        yield content[start : start + RUNNER_PIECE_BYTES]


class FrameBuffer:
    """Finds the frames in a stream of bytes, however it was cut up."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Take in bytes and yield the payload of every frame that they complete; raises
        ``RemoteProtocolError`` on an oversized one.
        """
        self._buffer += received
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(
                    f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}", got=length
                )
            end = LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[LENGTH.size : end])
            del self._buffer[:end]
            yield payload


def _check_finite(milliseconds: float) -> None:
    """Bounds let NaN pass, which is within none and outside of none."""
    if not math.isfinite(milliseconds):
        raise ValueError(f"{milliseconds} is no time")


def _frame(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload


def _weight(message: object) -> int:
    match message:
        case Run() | Input() | Output() | Done() | Emitted():
            return len(message.piece) + _OVERHEAD_BYTES
        case Failed():
            return _FAILURE_BYTES
        case _:
            return _OVERHEAD_BYTES
