"""MCP's own Python client against a real node: over stdin and stdout, and over HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx2
import pytest
import trio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from tests.support.machines import BIN, Machine, free_port, stopping

pytestmark = [
    pytest.mark.e2e,
    # the client's own HTTP library leaves generators to the collector; ours runs in other processes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODEL = "all-minilm-l6-v2"
Connect = Callable[[Machine], AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="module")
def node() -> Iterator[Machine]:
    """A mesh of one whose HTTP API is on."""
    options = {"COVEY_API_ENABLED": "true", "COVEY_API_PORT": str(free_port())}
    machine = Machine("alone", Path(mkdtemp(prefix="covey-")) / "alone", options=options)
    with stopping(machine):
        machine.run("init")
        machine.run("models", "add", MODEL)
        machine.up()
        machine.until(lambda: MODEL in machine.json("peers")[0]["models"], "offer its model")
        yield machine


@asynccontextmanager
async def over_stdio(node: Machine) -> AsyncGenerator[Client]:
    command = StdioServerParameters(
        command=os.fspath(BIN / "covey"), args=["mcp"], env=node.environment
    )
    async with Client(stdio_client(command)) as client:
        yield client


@asynccontextmanager
async def over_http(node: Machine) -> AsyncGenerator[Client]:
    api = node.json("status")["api"]
    token = Path(api["token_file"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(api["mcp"], http_client=http)) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    (told,) = answer.content
    assert isinstance(told, TextContent)
    return told.text


@pytest.mark.parametrize("connect", [over_stdio, over_http])
async def test_a_client_finds_what_there_is_runs_it_and_is_told_what_is_wrong(
    node: Machine, connect: Connect
) -> None:
    told: list[tuple[float, float | None]] = []

    async def on_progress(done: float, total: float | None, _message: str | None) -> None:
        told.append((done, total))

    wanted = {"kind": "embed", "model": MODEL}
    async with connect(node) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        models = await call(client, "models")
        arguments = {**wanted, "input": ["one", "two"], "options": {"precision": "fp32"}}
        ran = await client.call_tool("run", arguments, progress_callback=on_progress)
        promised = await call(client, "submit", **wanted, input=["one"])
        result = await call(client, "result", **promised)
        why = await call(client, "why", **promised)
        wrong = [
            await refusal(client, "run", kind="embedd", model=MODEL, input=["one"]),
            await refusal(client, "run", kind="embed", model="no-such", input=["one"]),
            await refusal(client, "run", **wanted, input=["one"], options={"seed": 1}),
            await refusal(client, "run", **wanted, input=["one"], options={"model": "x"}),
            await refusal(client, "run", kind="detect", model="magika", input=["no base64"]),
            await refusal(client, "job", job_id="zz"),
        ]

    assert {"models", "run", "submit", "result", "cancel", "why", "peers"} <= tools
    assert [(each["model"], each["kinds"]) for each in models["result"]] == [(MODEL, ["embed"])]
    assert ran.structured_content is not None
    assert [len(row["embedding"]) for row in ran.structured_content["rows"]] == [384, 384]
    assert told
    assert {total for _, total in told} == {2}
    assert len(result["rows"]) == 1
    assert why["candidates"]
    expected = ("no kind", "the model no-such", "no seed", "its own", "base64", "not a job id")
    for text, part in zip(wrong, expected, strict=True):
        assert part in text


@pytest.mark.parametrize("connect", [over_stdio, over_http])
async def test_a_call_that_is_broken_off_ends_its_job(node: Machine, connect: Connect) -> None:
    texts = ["A sentence that is not short at all, so that it takes a while."] * 20_000
    running = trio.Event()

    async def on_progress(*_: object) -> None:
        if is_working(node):
            running.set()

    async with connect(node) as client, trio.open_nursery() as nursery:

        async def run() -> None:
            arguments = {"kind": "embed", "model": MODEL, "input": texts}
            await client.call_tool("run", arguments, progress_callback=on_progress)

        nursery.start_soon(run)
        await running.wait()
        nursery.cancel_scope.cancel()

    node.until(lambda: not is_working(node), "stop the job")
    assert "cancelled" in [
        each["status"] for each in node.json("records", "list", "--kind", "job.ended")
    ]


def test_without_the_token_nobody_gets_in(node: Machine) -> None:
    url = node.json("status")["api"]["mcp"]
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

    assert httpx2.post(url, json=body).status_code == 401
    page = {"Origin": "https://evil.example", "Authorization": "Bearer x"}
    assert httpx2.post(url, json=body, headers=page).status_code == 403


async def test_without_a_node_each_tool_says_how_to_start_one(tmp_path: Path) -> None:
    async with over_stdio(Machine("none", tmp_path / "none")) as client:
        assert "covey up" in await refusal(client, "models")


def is_working(machine: Machine) -> bool:
    return any(each["jobs"] for each in machine.json("status")["runners"])
