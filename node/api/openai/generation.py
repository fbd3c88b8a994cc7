"""What the routes that continue texts share: a job of the kind ``generate`` for each request, and
its answer, whole or as server-sent events.

A ``Shape`` is how a route words what it answers. Events are what OpenAI's clients expect: text as
it comes, the reason why it ended, usage if it was asked for, and ``[DONE]``. What goes wrong before
the first text has an HTTP status as everywhere; after it, an event ``error`` ends the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node.api.openai.asked import Wanted
from node.api.openai.events import EventStream
from node.api.openai.front import MAX_PROMPT_BODY_BYTES, PART_COST, Front, aside, read_body
from node.api.openai.models import why_nobody
from node.errors import NoWorkerError
from node.job import JobSpec, summary_of
from node.runner import text_output
from node.runner.kinds import generate

KIND: Final = "generate"
COUNTERS: Final = frozenset({"max_rows", "new_tokens", "prompt_tokens"})
"""Of what is told of a run, that which belongs to it alone and not to how its worker computes."""

Understand = Callable[[bytes, int], Wanted]


class Shape(Protocol):
    """How one route words its answers."""

    prefix: str
    """Of an answer's id."""
    whole: str
    """The name of its object."""
    chunk: str
    """The name of the object of its events."""

    def choice(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole continuation."""
        ...

    def begun(self, index: int) -> dict[str, Any] | None:
        """Return the first event of a continuation, if it has one besides those with text."""
        ...

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return the event of more text."""
        ...

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return the last event of a continuation."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one answer begins with."""

    shape: Shape
    job_id: bytes
    created: int
    """In seconds since 1970."""
    model: str

    def told(self, name: str) -> dict[str, Any]:
        """Return it as an object of that name."""
        return {
            "id": f"{self.shape.prefix}-{self.job_id.hex()}",
            "object": name,
            "created": self.created,
            "model": self.model,
        }


class Generation:
    """The answering of requests of one shape over one node."""

    def __init__(self, front: Front, understand: Understand, shape: Shape) -> None:
        self._front = front
        self._understand = understand
        self._shape = shape

    async def create(self, request: Request) -> Response:
        """Answer one request."""
        front = self._front
        front.check_may_submit()
        with ExitStack() as taken:
            held = taken.enter_context(front.room.request())
            body = await read_body(request, held, MAX_PROMPT_BODY_BYTES)
            job_id = front.new_job_id()
            seed = int.from_bytes(job_id)
            wanted = await aside(len(body), lambda: self._understand(body, seed))
            spec = JobSpec(
                job_id=job_id,
                kind=KIND,
                model=wanted.model,
                input=wanted.content,
                items=wanted.prompts,
                budget_ms=front.budget_ms,
                tokens=wanted.tokens,
            )
            head = Head(self._shape, job_id, front.now_us() // 1_000_000, wanted.model)
            if wanted.is_streamed:
                events = Events(head, wanted)
                return EventStream(front, request, spec, events, taken.pop_all())
            return await self._whole(request, spec, head)

    async def _whole(self, request: Request, spec: JobSpec, head: Head) -> JSONResponse:
        try:
            result = await self._front.run(request, spec)
        except NoWorkerError as error:
            raise why_nobody(self._front.directory, spec, error) from error
        output = result.output
        rows = await aside(PART_COST * len(output), lambda: list(generate.rows(output)))
        summary = summary_of(spec, result)
        answer = {
            **head.told(self._shape.whole),
            "choices": [self._shape.choice(row) for row in rows],
            "usage": usage(summary, sum(row["tokens"] for row in rows)),
            "system_fingerprint": fingerprint(summary),
        }
        return JSONResponse(answer, headers={"X-Request-Id": spec.job_id.hex()})


class Events:
    """One answer in events."""

    def __init__(self, head: Head, wanted: Wanted) -> None:
        self._head = head
        self._wanted = wanted
        self._reader = text_output.PieceReader(wanted.prompts, wanted.tokens // wanted.prompts)
        self._begun = -1
        """The last continuation that has begun."""
        self._tokens = 0

    def grown(self, body: bytes) -> bytes:
        """Return the events of what came of an output; raises ``RemoteProtocolError``."""
        choices: list[dict[str, Any]] = []
        texts: list[str] = []
        for part in self._reader.feed(body):
            choices += self._beginning(part.index)
            texts.append(part.text)
            self._tokens += part.tokens
            if part.finish_reason is not None:
                choices += self._text(part.index, texts)
                choices.append(self._head.shape.ended(part.index, part.finish_reason))
        choices += self._text(self._begun, texts)
        return b"".join(self._event({"choices": [choice]}) for choice in choices)

    def ended(self, summary: Mapping[str, Any]) -> bytes:
        """Return the events behind the last text."""
        last: dict[str, Any] = {
            "choices": [],
            "system_fingerprint": fingerprint(summary),
            "usage": usage(summary, self._tokens),
        }
        return (self._event(last) if self._wanted.includes_usage else b"") + event(b"[DONE]")

    def _beginning(self, index: int) -> list[dict[str, Any]]:
        if index == self._begun:
            return []
        self._begun = index
        begun = self._head.shape.begun(index)
        return [] if begun is None else [begun]

    def _text(self, index: int, texts: list[str]) -> list[dict[str, Any]]:
        """Return what came of one continuation as one choice, and forget it."""
        text = "".join(texts)
        texts.clear()
        return [self._head.shape.grown(index, text)] if text else []

    def _event(self, more: Mapping[str, Any]) -> bytes:
        unsaid = {"usage": None} if self._wanted.includes_usage else {}
        told = {**self._head.told(self._head.shape.chunk), **unsaid, **more}
        return event(msgspec.json.encode(told))


def event(content: bytes) -> bytes:
    """Return one server-sent event."""
    return b"data: " + content + b"\n\n"


def usage(summary: Mapping[str, Any], new_tokens: int) -> dict[str, int] | None:
    """Return what was counted: the output's own tokens, and the prompts' as their worker says;
    None where it does not say.
    """
    prompt_tokens = summary["execution"].get("prompt_tokens")
    if type(prompt_tokens) is not int or prompt_tokens < 0:
        return None
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def fingerprint(summary: Mapping[str, Any]) -> str:
    """Return a name for how this was computed: where it is the same, so is what a seed gives."""
    profile = sorted((k, v) for k, v in summary["execution"].items() if k not in COUNTERS)
    return f"fp_{hashlib.sha256(msgspec.json.encode(profile)).hexdigest()[:12]}"
