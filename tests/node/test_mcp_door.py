"""MCP over HTTP behind the API's guard: what clients may send and hold, and what tools answer."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from node.api.mcp.door import MAX_MCP_BODY_BYTES, McpDoor
from node.api.mcp.tools import MAX_ANSWER_BYTES, Tools
from node.api.room import Room
from node.client import Covey
from node.runner.kinds import embed
from tests.support.api import TOKEN, Api, a_pair, error_of, serving

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": "2025-06-18",
}
LIST: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


@asynccontextmanager
async def a_door(folder: Path, room: Room | None = None) -> AsyncGenerator[Api]:
    """The API of a node with MCP, whose own control socket nobody answers."""
    room = room or Room()
    mesh, submitter, _ = a_pair()

    async def report(error: Exception) -> None:
        raise AssertionError("nothing is to be reported") from error

    async with mesh.running(), trio.open_nursery() as nursery:
        door = McpDoor(folder, nursery, report, room)
        async with serving(submitter, room=room, mcp=door) as api:
            yield api
        nursery.cancel_scope.cancel()


async def ask(app: ASGIApp, *messages: Message) -> list[Message]:
    """Send a request in these pieces and return what came back."""
    waiting, sent = list(messages), list[Message]()
    headers = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}", **HEADERS}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 1),
        "client": ("127.0.0.1", 2),
    }

    async def receive() -> Message:
        if not waiting:
            await trio.sleep_forever()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with trio.fail_after(20):
        await app(scope, receive, send)
    return sent


async def test_a_client_with_the_token_sees_the_tools(tmp_path: Path) -> None:
    async with a_door(tmp_path) as api:
        response = await api.client.post("/mcp", json=LIST, headers=HEADERS)

    assert response.status_code == 200
    assert '"name":"embed"' not in response.text
    assert '"name":"run"' in response.text.replace(" ", "")


async def test_a_client_that_breaks_off_while_it_sends_is_no_fault_of_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_door(tmp_path) as api:
        await ask(
            api.app,
            {"type": "http.request", "body": b'{"jsonrpc"', "more_body": True},
            {"type": "http.disconnect"},
        )

    assert not api.reports
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_client_has_no_more_room_than_any_other(tmp_path: Path) -> None:
    one, small = Room(requests=0), Room(held_bytes=100)

    async with a_door(tmp_path, one) as api:
        no_requests = await api.client.post("/mcp", json=LIST, headers=HEADERS)
    async with a_door(tmp_path, small) as api:
        no_bytes = await api.client.post("/mcp", json={**LIST, "x": "x" * 200}, headers=HEADERS)
        some = await api.client.post("/mcp", json=LIST, headers=HEADERS)

    assert (no_requests.status_code, error_of(no_requests)["code"]) == (429, "rate_limit_exceeded")
    assert (no_bytes.status_code, error_of(no_bytes)["code"]) == (429, "rate_limit_exceeded")
    assert some.status_code == 200


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with a_door(tmp_path) as api:
        content = bytes(MAX_MCP_BODY_BYTES + 1)
        response = await api.client.post("/mcp", content=content, headers=HEADERS)

    assert (response.status_code, error_of(response)["code"]) == (413, "too-big")


async def test_only_what_asks_something_is_answered_for_no_session_is_kept(tmp_path: Path) -> None:
    async with a_door(tmp_path) as api:
        statuses = [(await api.client.request(m, "/mcp")).status_code for m in ("GET", "DELETE")]

    assert statuses == [405, 405]


# What tools answer


@asynccontextmanager
async def tools_of(output: bytes, peers: list[dict[str, Any]]) -> AsyncGenerator[Tools]:
    """The tools over a control API where each job has this output."""

    async def run(_request: Request) -> Response:
        lines = [{"output": base64.b64encode(output).decode()}, {"result": {"job_id": "00"}}]
        return Response("\n".join(json.dumps(line) for line in lines))

    async def listed(_request: Request) -> Response:
        return JSONResponse(peers)

    routes = [Route("/run", run, methods=["POST"]), Route("/peers", listed)]
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://covey") as http:
        yield Tools(Covey(http))


def vectors(count: int) -> bytes:
    return embed.encode_output(np.full((count, 384), 1 / 3, "<f4"))


async def test_an_answer_that_a_language_model_can_read_comes_whole() -> None:
    context: Any = None
    async with tools_of(vectors(2), [{"peer": "a"}]) as tools:
        answer = await tools.run("embed", "m", ["a", "b"], context)
        peers = await tools.peers()

    assert [row["index"] for row in answer["rows"]] == [0, 1]
    assert answer["summary"] == {"job_id": "00"}
    assert peers == [{"peer": "a"}]


async def test_an_answer_that_is_too_large_for_one_says_where_else_it_is_to_be_had() -> None:
    context: Any = None
    many = [{"peer": "x" * 100}] * (MAX_ANSWER_BYTES // 100)
    async with tools_of(vectors(1_000), many) as tools:
        with pytest.raises(ToolError, match=r"answer-too-large.*covey"):
            await tools.run("embed", "m", ["a"] * 1_000, context)
        with pytest.raises(ToolError, match=r"answer-too-large.*covey"):
            await tools.peers()
