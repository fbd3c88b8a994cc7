"""Computes the texts of many jobs on one encoder: a vector for each, whatever becomes of it then.

Jobs share batches, so a small job neither waits for a big one nor computes alone. Text is tokenised
a window at a time, which bounds memory and how long a cancelled job goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from node.runner.batcher import WINDOW_BYTES, Batcher, Row, window
from node.runner.exhaustion import is_exhaustion
from node.runner.kinds import Advanced, BadOutputError, Broken, Event, Facts, Finished
from node.runner.kinds.embed import check_output, decode_input, encode_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job asks for: texts to compute, of which the first ``items`` are its own, and how
    their vectors, in that order, become its output.
    """

    texts: list[str]
    items: int
    answer: Callable[[NDArray[np.float32]], bytes]
    gives_vectors: bool = False
    """Whether the output is the vectors themselves."""


class Encoder(Protocol):
    """A loaded model that makes a vector of a text."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        ...

    @property
    def execution(self) -> Facts:
        """Engine, dtype, device and threads."""
        ...

    def tokenise(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, and how many texts were cut to the model's length."""
        ...

    def encode(self, rows: list[list[int]]) -> NDArray[np.float32]:
        """Return the vectors of a batch, in its order."""
        ...


def asked_vectors(content: bytes) -> Asked:
    """Return what an ``embed`` job asks for; raises ``BadInputError``."""
    texts = decode_input(content)
    return Asked(texts, len(texts), encode_output, gives_vectors=True)


@dataclass(slots=True)
class _Job:
    asked: Asked
    vectors: NDArray[np.float32]
    received: float
    tokens: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    tokenised: int = 0
    counted: int = 0
    """Tokens, those that the model adds included and those cut off not."""
    done: int = 0
    batches: int = 0
    max_rows: int = 0
    truncated: int = 0
    started: float = math.nan
    busy_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def items(self) -> list[str]:
        return self.asked.texts


class EmbedEngine:
    """Computes the rows of all its jobs in shared batches, and answers each job when its last row
    is done.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
        read: Callable[[bytes], Asked] = asked_vectors,
    ) -> None:
        self._encoder = encoder
        self._read = read
        self._batcher = Batcher(batch_tokens)
        self._jobs: dict[int, _Job] = {}
        self._clock = clock
        self._cpu_clock = cpu_clock
        self.execution: Facts = {**encoder.execution, "batch_tokens": batch_tokens}

    def warm_up(self) -> None:
        """Compute something: an engine's first batch takes several times as long as the next ones.

        Raises ``BadOutputError`` when the model does not compute at all.
        """
        import numpy as np

        rows, _ = self._encoder.tokenise(["warm"])
        if not np.isfinite(self._encoder.encode(rows)).all():
            raise BadOutputError("the model's first vector is not finite")

    @property
    def is_busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._jobs)

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        import numpy as np

        asked = self._read(content)
        if asked.gives_vectors:
            check_output(asked.items, self._encoder.dimension)
        vectors = np.empty((len(asked.texts), self._encoder.dimension), dtype="<f4")
        self._jobs[job] = _Job(asked, vectors, self._clock())

    def cancel(self, job: int) -> None:
        """Drop a job between steps; does nothing when there is no such job."""
        self._batcher.remove(job)
        self._jobs.pop(job, None)

    def step(self) -> list[Event]:
        """Tokenise a bounded piece of text where rows ran out, then compute one batch."""
        events = self._refill()
        batch = self._batcher.take()
        if batch:
            events += self._compute(batch)
        return events

    def _refill(self) -> list[Event]:
        events: list[Event] = []
        budget = WINDOW_BYTES
        for number, job in list(self._jobs.items()):
            if budget > 0 and job.tokenised < len(job.items) and not self._batcher.waiting(number):
                try:
                    budget -= self._tokenise(number, job)
                except Exception as error:  # noqa: BLE001 - the job boundary: a text that breaks the tokenizer fails its job alone
                    self.cancel(number)
                    events.append(Broken(number, error))
        return events

    def _tokenise(self, number: int, job: _Job) -> int:
        """Let the job's next window of rows wait for their batch; return the bytes of text that it
        had.
        """
        began, cpu_began = self._clock(), self._cpu_clock()
        if math.isnan(job.started):
            job.started = began
        first = job.tokenised
        texts, size = window(job.items, first)
        rows, truncated = self._encoder.tokenise(texts)
        job.tokens.update(enumerate(rows, first))
        job.tokenised += len(texts)
        job.truncated += truncated
        job.counted += sum(map(len, rows))
        self._batcher.add(number, ((first + place, len(row)) for place, row in enumerate(rows)))
        job.busy_s += self._clock() - began
        job.cpu_s += self._cpu_clock() - cpu_began
        return size

    def _compute(self, batch: list[Row]) -> list[Event]:
        began, cpu_began = self._clock(), self._cpu_clock()
        try:
            rows = [self._jobs[row.job].tokens.pop(row.item) for row in batch]
            vectors, at_once = self._encode(rows)
        except Exception as error:  # noqa: BLE001 - the job boundary: whose row it was cannot be told, the other jobs go on
            return [self._broken(job, error) for job in sorted({row.job for row in batch})]
        busy_s, cpu_s = self._clock() - began, self._cpu_clock() - cpu_began
        tokens = sum(row.length for row in batch)
        events: list[Event] = []
        for number in dict.fromkeys(row.job for row in batch):
            job = self._jobs[number]
            places = [place for place, row in enumerate(batch) if row.job == number]
            share = sum(batch[place].length for place in places) / tokens
            job.busy_s += busy_s * share
            job.cpu_s += cpu_s * share
            job.batches += 1
            job.max_rows = max(job.max_rows, at_once)
            events += self._place(
                number, job, [batch[place].item for place in places], vectors[places]
            )
        return events

    def _encode(self, rows: list[list[int]]) -> tuple[NDArray[np.float32], int]:
        """Return the vectors of a batch, and how many were computed at once: half of them where the
        memory does not suffice for all.
        """
        import numpy as np

        try:
            return self._encoder.encode(rows), len(rows)
        except Exception as error:
            if len(rows) == 1 or not is_exhaustion(error):
                raise
        # only here, past the error, is what it held of the first attempt free again
        half = -(-len(rows) // 2)
        halves = [self._encoder.encode(rows[:half]), self._encoder.encode(rows[half:])]
        return np.concatenate(halves), half

    def _place(
        self, number: int, job: _Job, items: list[int], vectors: NDArray[np.float32]
    ) -> list[Event]:
        """Put a batch's vectors where they belong in their job's output."""
        import numpy as np

        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            item = items[int(np.argmin(finite))]
            return [
                self._broken(
                    number, BadOutputError(f"the vector of item {item} is not finite", item=item)
                )
            ]
        job.vectors[items] = vectors
        job.done += len(items)
        own = job.asked.items
        progress = Advanced(number, min(job.done, own), own)
        if job.done < len(job.items):
            return [progress]
        try:
            output = job.asked.answer(job.vectors)
        except Exception as error:  # noqa: BLE001 - the job boundary: an answer that cannot be put together fails its job alone
            return [self._broken(number, error)]
        del self._jobs[number]
        return [progress, self._finished(number, job, output)]

    def _broken(self, number: int, error: Exception) -> Broken:
        self.cancel(number)
        return Broken(number, error)

    def _finished(self, number: int, job: _Job, output: bytes) -> Finished:
        return Finished(
            job=number,
            output=output,
            execution={
                **self.execution,
                "batches": job.batches,
                "max_rows": job.max_rows,
                "truncated": job.truncated,
                "tokens": job.counted,
            },
            timings={
                "queue_ms": round((job.started - job.received) * 1_000, 3),
                "run_ms": round((self._clock() - job.started) * 1_000, 3),
                "busy_ms": round(job.busy_s * 1_000, 3),
                "cpu_ms": round(job.cpu_s * 1_000, 3),
            },
        )
