"""Whoever waits for a kept job goes on when the node that was away is back."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from node import requests
from peer.control import ControlClient, DaemonDownError, json_lines, serve

ID = "ab" * 16
SUMMARY = {"worker": "w", "items": 1}


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # paths below tmp_path are too long for a socket
        yield Path(folder) / "control.sock"


def a_node(lines: list[Any], asked: trio.Event, *, stays: bool) -> Starlette:
    """A node whose kept job is told of in these lines; the last one is not if it stays silent."""

    async def told() -> AsyncIterator[Any]:
        for line in lines:
            yield line
        asked.set()
        if not stays:
            await trio.sleep_forever()

    async def result(_request: Request) -> StreamingResponse:
        return StreamingResponse(json_lines(told()))

    async def status(_request: Request) -> JSONResponse:
        return JSONResponse({})

    routes = [
        Route("/status", status),
        Route(f"/jobs/{ID}/result", result),
        Route("/run", result, methods=["POST"]),
    ]
    return Starlette(routes=routes)


PROGRESS = {"progress": {"items_done": 0}}
RESULT = [{"output": "b25l"}, {"result": SUMMARY}]


async def test_a_wait_goes_on_over_a_restart_of_the_node(socket_path: Path) -> None:
    away: list[str] = []

    def wait() -> requests.JobOutcome:
        with ControlClient(socket_path, hint="") as control:
            return requests.result(control, ID, lambda _: None, lambda: away.append("away"))

    outcomes: list[requests.JobOutcome] = []

    async def client() -> None:
        outcomes.append(await trio.to_thread.run_sync(wait))

    with trio.fail_after(30):
        async with trio.open_nursery() as waiting:
            asked = trio.Event()
            async with trio.open_nursery() as first:
                await first.start(
                    partial(serve, a_node([PROGRESS], asked, stays=False), socket_path)
                )
                waiting.start_soon(client)
                await asked.wait()
                first.cancel_scope.cancel()
            async with trio.open_nursery() as second:
                done = trio.Event()
                await second.start(partial(serve, a_node(RESULT, done, stays=True), socket_path))
                await done.wait()
                while not outcomes:
                    await trio.lowlevel.checkpoint()
                second.cancel_scope.cancel()

    assert (outcomes[0].output, outcomes[0].summary) == (b"one", SUMMARY)
    assert away == ["away"]


@pytest.mark.parametrize(
    ("is_kept", "says", "hint"),
    [
        (True, "goes on with the job when it is started again", "ask again"),
        (False, "stopped before", "run the job again"),
    ],
)
async def test_a_node_that_stays_away_leaves_a_sentence_of_its_own_for_each(
    is_kept: bool, says: str, hint: str, socket_path: Path
) -> None:
    def ask(control: ControlClient) -> requests.JobOutcome:
        if is_kept:
            return requests.result(control, ID, lambda _: None, comeback_s=0)
        job = requests.JobRequest(kind="noop", model="noop", input=b"", items=0)
        return requests.run(control, job, lambda _: None)

    def wait() -> DaemonDownError:
        with ControlClient(socket_path, hint="") as control:
            with pytest.raises(DaemonDownError) as error:
                ask(control)
            return error.value

    errors: list[DaemonDownError] = []

    async def client() -> None:
        errors.append(await trio.to_thread.run_sync(wait))

    with trio.fail_after(30):
        async with trio.open_nursery() as waiting:
            asked = trio.Event()
            async with trio.open_nursery() as serving:
                await serving.start(
                    partial(serve, a_node([PROGRESS], asked, stays=False), socket_path)
                )
                waiting.start_soon(client)
                await asked.wait()
                serving.cancel_scope.cancel()

    assert says in errors[0].message
    assert hint in (errors[0].hint or "")
