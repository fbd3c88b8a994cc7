"""The HTTP API over a node of a ``JobMesh``, without a socket."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import cbor2
import httpx
import trio
from starlette.types import ASGIApp

from node.api.access import Access
from node.api.openai.app import openai_app
from node.api.openai.front import Front
from node.api.room import Room
from node.runner.kinds import embed
from node.submissions import Submissions
from tests.support.jobs import DIMENSION, JobMesh, JobNode
from tests.support.runners import FakeRunnerPool

TOKEN = "t" * 32
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
            report=report,
            timeout_s=timeout_s,
            room=room or Room(),
        )
        app = openai_app(front, access or Access.of(TOKEN, "127.0.0.1"))
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
