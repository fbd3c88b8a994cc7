"""Jobs of kind ``generate`` at an upstream: a streamed request for each prompt, several at once,
their texts passed on in the order of the prompts while they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from node.runner import text_output
from node.runner.kinds import generate
from node.runner.kinds.generate import Prompt
from node.runner_job import RunOutcome
from node.upstream.continuation import Continuation, request
from node.upstream.errors import broken
from node.upstream.job import UpstreamJob, sum_of
from node.upstream.sse import EventStream
from protocols.errors import JobFailed, RemoteProtocolError
from protocols.limits import MAX_JOB_OUTPUT_BYTES, MAX_UPSTREAM_STREAM_BYTES

TELL_EVERY_S: Final = 0.1  # a reader sees no steps; each costs two daemons 0.5 ms of CPU


class Output:
    """A job's output as it grows: parts of the prompt whose turn it is are passed on, the first at
    once and then every ``TELL_EVERY_S`` if there are more, those of later ones when theirs comes.
    """

    def __init__(self, on_piece: Callable[[bytes], None]) -> None:
        self._on_piece = on_piece
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._turn = 0
        self._waiting: dict[int, list[bytes]] = {}
        self._over: set[int] = set()
        self._untold: list[bytes] = []
        self._told_at = -math.inf

    def add(self, index: int, part: bytes, now: float, *, is_last: bool = False) -> None:
        """Take in the next part of prompt ``index``; raises ``JobFailed`` when the output becomes
        too large.
        """
        self._size_bytes += len(part)
        if self._size_bytes > MAX_JOB_OUTPUT_BYTES:
            raise JobFailed(
                f"the output has more than {MAX_JOB_OUTPUT_BYTES} bytes", code="output-too-big"
            )
        self._waiting.setdefault(index, []).append(part)
        if is_last:
            self._over.add(index)
        self._follow()
        self._tell_if_due(now)

    def content(self) -> bytes:
        """Return all of it, also what was not passed on yet."""
        return b"".join([*self._parts, *self._untold])

    def _follow(self) -> None:
        while (parts := self._waiting.pop(self._turn, None)) is not None:
            self._untold += parts
            if self._turn not in self._over:
                break
            self._turn += 1

    def _tell_if_due(self, now: float) -> None:
        if self._untold and now >= self._told_at + TELL_EVERY_S:
            piece, self._untold = b"".join(self._untold), []
            self._parts.append(piece)
            self._told_at = now
            self._on_piece(piece)


async def run(job: UpstreamJob) -> RunOutcome:
    """Compute a job; raises ``JobFailed`` and ``BadInputError``."""
    wanted = generate.decode_input(job.content)
    output = Output(job.on_piece)
    most = wanted.parameters.max_tokens
    texts = [Continuation(index, most) for index in range(len(wanted.items))]
    total, done = len(wanted.items) * most, 0

    def add(index: int, text: str) -> None:
        nonlocal done
        output.add(index, text_output.piece(index, text, None, 0), trio.current_time())
        done = min(done + 1, total)  # an event is about a token
        job.on_progress(done, total)

    async def ask(text: Continuation, prompt: Prompt) -> None:
        path, body = request(job.model.id, prompt, wanted.parameters)
        await _stream(job, path, body, text, add)
        output.add(text.index, text.last_part(), trio.current_time(), is_last=True)

    await job.do(partial(ask, *pair) for pair in zip(texts, wanted.items, strict=True))
    counts = {
        "prompt_tokens": sum_of([text.prompt_tokens for text in texts]),
        "new_tokens": sum_of([text.new_tokens for text in texts]),
    }
    return job.outcome(output.content(), counts)


async def _stream(
    job: UpstreamJob, path: str, body: bytes, text: Continuation, add: Callable[[int, str], None]
) -> None:
    """Make one request and add its text while it comes."""
    events = EventStream()
    async with job.client.ask(path, job.patience, body) as answer:
        while not text.is_over and (received := await answer.next(MAX_UPSTREAM_STREAM_BYTES)):
            for event in _events(events, received):
                if added := text.take(event):
                    add(text.index, added)
        await answer.end()


def _events(events: EventStream, received: bytes) -> list[str]:
    try:
        return events.feed(received)
    except RemoteProtocolError as error:
        raise broken(error.message) from None
