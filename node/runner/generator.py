"""Continues the prompts of many ``generate`` jobs on one language model, all at once.

A step reads one piece of one prompt and writes one token of every continuation under way, so that
prompts join and leave between two tokens, and a long prompt holds the others up by no more than a
piece. How many are written at once is bounded, and what they may grow to is set aside before they
begin: nothing has to be thrown out later.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from node.runner.continuation import Ask, Continuation, TokenText
from node.runner.kinds import (
    Advanced,
    BadInputError,
    BadOutputError,
    Broken,
    Emitted,
    Event,
    Facts,
    Finished,
)
from node.runner.kinds.generate import TOO_LONG, GenerateInput, Prompt, decode_input
from protocols.limits import MAX_GENERATE_SEQUENCES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TELL_EVERY_S: Final = 0.1  # a reader sees no steps; each costs two daemons 0.5 ms of CPU
BYTES_A_TOKEN: Final = 4  # of English text; only for progress, until a prompt is tokenised


T = TypeVar("T")


class Model(Protocol):
    """A loaded language model."""

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its continuation."""
        ...

    @property
    def piece_tokens(self) -> int:
        """How many tokens of a prompt are read in one step."""
        ...

    @property
    def execution(self) -> Facts:
        """Engine, precision, device and threads."""
        ...

    def open(self, tokens: int) -> Any:
        """Return room for a sequence that grows to so many tokens; None when there is none now."""
        ...

    def close(self, cache: Any) -> None:
        """Give a sequence's room back."""
        ...

    def read(self, cache: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Take in the next tokens of one sequence; return the logits after the last one."""
        ...

    def write(self, caches: Sequence[Any], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Take in one token of each sequence; return the logits after it, one row each."""
        ...


class Text(Protocol):
    """A model's tokenizer."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a continuation."""
        ...

    def tokenise(self, prompt: Any, most: int) -> list[int]:
        """Return the tokens of a text, or of a chat; of one that has more than ``most``, perhaps
        only more than ``most`` of its first ones. Raises ``BadInputError``.
        """
        ...

    def continuation(self) -> TokenText:
        """Return what makes text of a new continuation's tokens."""
        ...


@dataclass(slots=True)
class _Job:
    wanted: GenerateInput
    received: float
    opened: int = 0
    """Prompts that are under way, or were."""
    told: int = 0
    """Prompts whose continuation has been emitted whole."""
    waiting: dict[int, list[bytes]] = field(default_factory=dict[int, list[bytes]])
    """What is known of the continuations behind the one that is emitted now."""
    over: set[int] = field(default_factory=set[int])
    untold: list[bytes] = field(default_factory=list[bytes])
    """What is to be emitted next."""
    told_at: float = -math.inf
    is_moved: bool = False
    """Whether it is further than it was last told."""
    done: int = 0
    total: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    max_rows: int = 0
    started: float = math.nan
    busy_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def is_opened(self) -> bool:
        return self.opened == len(self.wanted.items)


class GenerateEngine:
    """Reads and writes for all its jobs in turns; emits text soon after it is known."""

    def __init__(
        self,
        model: Model,
        text: Text,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._model = model
        self._text = text
        self._jobs: dict[int, _Job] = {}
        self._turns: deque[int] = deque()
        """Jobs with prompts that are not under way; the first one's turn comes next."""
        self._held: Ask | None = None
        """The next prompt, tokenised, while there is no room for it."""
        self._reading: deque[Continuation] = deque()
        self._writing: list[Continuation] = []
        self._clock = clock
        self._cpu_clock = cpu_clock
        self.execution: Facts = {**model.execution, "piece_tokens": model.piece_tokens}

    def warm_up(self) -> None:
        """Compute a token: an engine's first one takes several times as long as the next ones.

        Raises ``BadOutputError`` when the model does not compute at all.
        """
        import numpy as np

        cache = self._model.open(2)
        read = self._model.read(cache, [0])
        written = self._model.write([cache], [0])
        self._model.close(cache)
        if not (np.isfinite(read).all() and np.isfinite(written).all()):
            raise BadOutputError("the model's first logits are not finite")

    @property
    def is_busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._jobs)

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        wanted = decode_input(content)
        longest = sum(map(_guessed_tokens, wanted.items))
        total = longest + len(wanted.items) * wanted.parameters.max_tokens
        self._jobs[job] = _Job(wanted, self._clock(), total=total)
        self._turns.append(job)

    def cancel(self, job: int) -> None:
        """Drop a job between steps; does nothing when there is no such job."""
        if self._jobs.pop(job, None) is None:
            return
        if job in self._turns:
            self._turns.remove(job)
        if self._held is not None and self._held.job == job:
            self._held = None
        for each in [c for c in (*self._reading, *self._writing) if c.ask.job == job]:
            self._close(each)

    def step(self) -> list[Event]:
        """Take in one prompt if there is room, write a token of each continuation, and read a piece
        of a prompt: after that, so that a first token does not wait until the second is written.
        """
        events = [*self._open_next(), *self._write_all(), *self._read_next()]
        return [*events, *self._tell_due()]

    # Prompts that join

    def _open_next(self) -> list[Event]:
        if len(self._reading) + len(self._writing) >= MAX_GENERATE_SEQUENCES:
            return []
        if self._held is None:
            if not self._turns:
                return []
            number = self._turns[0]
            try:
                self._held = self._timed(number, lambda: self._next_ask(number))
            except Exception as error:  # noqa: BLE001 - the job boundary: a prompt that cannot be tokenised fails its job alone
                return [self._broken(number, error)]
        ask = self._held
        cache = self._model.open(len(ask.prompt) + ask.limit)
        if cache is not None:
            self._held = None
            self._reading.append(Continuation(ask, self._text.continuation(), cache))
        return []

    def _next_ask(self, number: int) -> Ask:
        """Tokenise the next prompt of the job whose turn it is; then it is the next one's turn."""
        job = self._jobs[number]
        item, parameters = job.opened, job.wanted.parameters
        given = job.wanted.items[item]
        prompt = self._text.tokenise(_plain(given), self._model.context)
        room = self._model.context - len(prompt)
        if not prompt or room < 1:
            raise BadInputError(
                f"item {item} has {len(prompt)} tokens, or more; the model's context of "
                f"{self._model.context} takes 1 to {self._model.context - 1}, and its answer",
                code=TOO_LONG,
                item=item,
                hint="shorten it, or use a model with a longer context",
            )
        limit = min(parameters.max_tokens, room)
        job.opened += 1
        job.prompt_tokens += len(prompt)
        job.total += len(prompt) - _guessed_tokens(given) + limit - parameters.max_tokens
        self._turns.popleft()
        if not job.is_opened:
            self._turns.append(number)
        return Ask(number, item, prompt, limit, parameters, self._text.ends)

    # Steps of the model

    def _read_next(self) -> list[Event]:
        """Read a piece of the prompt whose turn it is. Pieces do not depend on what else there is,
        nor does what is computed of them.
        """
        if not self._reading:
            return []
        reading = self._reading.popleft()
        job, piece = reading.ask.job, reading.unread[: self._model.piece_tokens]
        try:
            logits = self._timed(job, lambda: self._model.read(reading.cache, piece))
        except Exception as error:  # noqa: BLE001 - the job boundary
            self._model.close(reading.cache)
            return [self._broken(job, error)]
        reading.was_read(len(piece))
        self._jobs[job].done += len(piece)
        if reading.unread:
            self._reading.append(reading)
            return [self._progress(job)]
        self._writing.append(reading)
        return self._advance(reading, logits)

    def _write_all(self) -> list[Event]:
        """Write one token of every continuation."""
        batch = list(self._writing)
        if not batch:
            return []
        began, cpu_began = self._clock(), self._cpu_clock()
        try:
            logits = self._model.write(
                [each.cache for each in batch], [each.unread[0] for each in batch]
            )
        except Exception as error:  # noqa: BLE001 - the job boundary: whose row it was cannot be told, the others go on
            return [self._broken(job, error) for job in sorted({c.ask.job for c in batch})]
        busy_s = (self._clock() - began) / len(batch)
        cpu_s = (self._cpu_clock() - cpu_began) / len(batch)
        events: list[Event] = []
        for each, row in zip(batch, logits, strict=True):
            job = self._jobs.get(each.ask.job)
            if job is not None:  # another of its continuations may have failed just now
                job.busy_s += busy_s
                job.cpu_s += cpu_s
                job.max_rows = max(job.max_rows, len(batch))
                events += self._advance(each, row)
        return events

    def _advance(self, each: Continuation, logits: NDArray[np.float32]) -> list[Event]:
        """Take the next token of one continuation."""
        number = each.ask.job
        job = self._jobs[number]
        try:
            piece = each.take(logits)
        except Exception as error:  # noqa: BLE001 - the job boundary
            return [self._broken(number, error)]
        job.done += 1
        job.new_tokens += 1
        job.is_moved = True
        job.waiting.setdefault(each.ask.item, []).append(piece)
        if each.is_over:
            job.over.add(each.ask.item)
            self._close(each)
        return self._follow(number, job)

    # What comes of it

    def _follow(self, number: int, job: _Job) -> list[Event]:
        """Take to what is to be emitted what is known of the first continuation that is not emitted
        whole, and of those behind it once it is; end the job with the last one.
        """
        while (pieces := job.waiting.pop(job.told, None)) is not None:
            job.untold += pieces
            if job.told not in job.over:
                break
            job.told += 1
        if job.told < len(job.wanted.items):
            return []
        del self._jobs[number]
        return [Advanced(number, job.total, job.total), self._finished(number, job)]

    def _tell_due(self) -> list[Event]:
        """Emit, and say how far they are, of the jobs that moved and were not told of for a while:
        the first time at once, then every ``TELL_EVERY_S``.
        """
        moved = [(number, job) for number, job in self._jobs.items() if job.is_moved]
        if not moved:
            return []
        now = self._clock()
        due = [(number, job) for number, job in moved if now >= job.told_at + TELL_EVERY_S]
        return [event for number, job in due for event in self._tell(number, job, now)]

    def _tell(self, number: int, job: _Job, now: float) -> list[Event]:
        piece = b"".join(job.untold)
        job.untold.clear()
        job.is_moved = False
        emitted = [Emitted(number, piece)] if piece else []
        if piece:  # until there is text, the next token's is not kept back
            job.told_at = now
        return [*emitted, self._progress(number)]

    def _progress(self, number: int) -> Advanced:
        job = self._jobs[number]
        return Advanced(number, job.done, job.total)

    def _broken(self, number: int, error: Exception) -> Broken:
        self.cancel(number)
        return Broken(number, error)

    def _close(self, each: Continuation) -> None:
        if each in self._reading:
            self._reading.remove(each)
        else:
            self._writing.remove(each)
        self._model.close(each.cache)

    def _timed(self, number: int, work: Callable[[], T]) -> T:
        job = self._jobs[number]
        began, cpu_began = self._clock(), self._cpu_clock()
        if math.isnan(job.started):
            job.started = began
        try:
            return work()
        finally:
            job.busy_s += self._clock() - began
            job.cpu_s += self._cpu_clock() - cpu_began

    def _finished(self, number: int, job: _Job) -> Finished:
        return Finished(
            job=number,
            output=b"".join(job.untold),
            execution={
                **self.execution,
                "max_rows": job.max_rows,
                "prompt_tokens": job.prompt_tokens,
                "new_tokens": job.new_tokens,
            },
            timings={
                "queue_ms": round((job.started - job.received) * 1_000, 3),
                "run_ms": round((self._clock() - job.started) * 1_000, 3),
                "busy_ms": round(job.busy_s * 1_000, 3),
                "cpu_ms": round(job.cpu_s * 1_000, 3),
            },
        )


def _plain(prompt: Prompt) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": each.role, "content": each.content} for each in prompt]


def _guessed_tokens(prompt: Prompt) -> int:
    texts = [prompt] if isinstance(prompt, str) else [each.content for each in prompt]
    return 1 + sum(len(text) for text in texts) // BYTES_A_TOKEN
