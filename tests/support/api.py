"""The HTTP API over a node of a ``JobMesh``, without a socket."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cbor2
import httpx
import trio
from starlette.types import ASGIApp, Message

from node.api.access import Access
from node.api.openai.app import openai_app
from node.api.openai.front import Front
from node.api.room import Room
from node.runner import text_output
from node.runner.kinds import embed, generate
from node.submissions import Submissions
from tests.support.jobs import DIMENSION, JobMesh, JobNode
from tests.support.runners import FakeRunnerPool, model_of

TOKEN = "t" * 32
WRITER = "talker"
BASE = "http://127.0.0.1:4118"


@dataclass
class Api:
    """One node's API: the application itself, a client that has the token, and what it reported."""

    app: ASGIApp
    client: httpx.AsyncClient
    reports: list[Exception]

    async def embed(self, input: Any, model: str = "minilm", **options: Any) -> httpx.Response:
        body = {"model": model, "input": input, **options}
        return await self.client.post("/v1/embeddings", json=body)


@asynccontextmanager
async def serving(
    node: JobNode,
    *,
    room: Room | None = None,
    timeout_s: float = 60.0,
    access: Access | None = None,
    check_may_submit: Callable[[], None] = lambda: None,
    mcp: ASGIApp | None = None,
) -> AsyncGenerator[Api]:
    """Serve the API of ``node``, which must run, until the block ends."""
    reports: list[Exception] = []

    async def report(error: Exception) -> None:
        reports.append(error)

    async with trio.open_nursery() as nursery:
        front = Front(
            directory=node.directory,
            submissions=Submissions(node.submitter, report, nursery),
            new_job_id=partial(node.effects.token, 16),
            check_may_submit=check_may_submit,
            now_us=node.effects.now_us,
            report=report,
            timeout_s=timeout_s,
            room=room or Room(),
        )
        app = openai_app(front, access or Access.of(TOKEN, "127.0.0.1"), mcp)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers) as client:
            yield Api(app, client, reports)


def lengths(content: bytes) -> bytes:
    """Return as embeddings how long each text of an input is, in thirds."""
    texts = embed.decode_input(content)
    rows = [struct.pack(f"<{DIMENSION}f", len(text), len(text) / 3, 0, 1) for text in texts]
    return cbor2.dumps([embed.DTYPE, len(rows), DIMENSION, b"".join(rows)])


def embedders(**changes: Any) -> FakeRunnerPool:
    """Runners whose embeddings are ``lengths``, and which count seven tokens a job."""
    usual: dict[str, Any] = {"output_of": lengths, "facts": {"tokens": 7}}
    return FakeRunnerPool(**{**usual, **changes})


def a_pair(**changes: Any) -> tuple[JobMesh, JobNode, JobNode]:
    """A mesh of a submitter and one worker that is somebody else."""
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, mesh.add("worker", runners=embedders(**changes))


def writers(**changes: Any) -> FakeRunnerPool:
    """Runners that continue each prompt by ``said``, told piece by piece if they emit, and that
    count three tokens of each prompt.
    """
    usual: dict[str, Any] = {"output_of": said, "facts": {"prompt_tokens": 3}}
    return FakeRunnerPool(**{**usual, **changes})


def said(content: bytes) -> bytes:
    """Return what a model says that answers with the last words that it heard, in capitals, a word
    a token, as far as it may.
    """
    wanted = generate.decode_input(content)
    output = b""
    for index, item in enumerate(wanted.items):
        heard = item if isinstance(item, str) else item[-1].content
        words = heard.upper().split()[: wanted.parameters.max_tokens]
        reason = "length" if len(words) == wanted.parameters.max_tokens else "stop"
        for place, word in enumerate(words):
            is_last = reason == "length" and place == len(words) - 1
            text = f" {word}" if place else word
            output += text_output.piece(index, text, reason if is_last else None, 1)
        if reason == "stop":
            output += text_output.piece(index, "", reason, 1)
    return output


def one_answer(_: bytes) -> bytes:
    """Return one continuation, whatever was asked for."""
    return text_output.piece(0, "a", "stop", 1)


def a_writing_pair(**changes: Any) -> tuple[JobMesh, JobNode, JobNode]:
    """As ``a_pair``, with a worker that writes."""
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, add_writer(mesh, **changes)


def add_writer(mesh: JobMesh, **changes: Any) -> JobNode:
    """One more worker that writes."""
    return mesh.add("worker", runners=writers(**changes), model=model_of(WRITER, "generate"))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, whose four keys are always there."""
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events_of(content: bytes) -> list[Any]:
    """The server-sent events of an answer, without the word that ends them."""
    lines = [line for line in content.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


@dataclass
class AsgiClient:
    """A client as ASGI has it: one body, then nothing until it is gone. It takes what is answered
    while it ``reads``.
    """

    path: str
    body: dict[str, Any]
    gone: trio.Event = field(default_factory=trio.Event)
    reads: trio.Event = field(default_factory=trio.Event)
    statuses: list[int] = field(default_factory=list)
    content: bytes = b""
    is_answered: bool = False
    _is_sent: bool = False

    def __post_init__(self) -> None:
        self.reads.set()

    async def ask(self, api: Api) -> None:
        headers = {"host": "localhost", "authorization": f"Bearer {TOKEN}"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await api.app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._is_sent:
            self._is_sent = True
            body = json.dumps(self.body).encode()
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])
        else:
            self.content += message["body"]
            self.is_answered = not message.get("more_body", False)
