from __future__ import annotations

import socket
import stat
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

from peer.control import (
    ControlClient,
    DaemonDownError,
    DaemonSilentError,
    answer_error,
    json_lines,
    serve,
)
from protocols.errors import CoveyError


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        yield Path(folder) / "control.sock"


async def answer(_request: Request) -> JSONResponse:
    return JSONResponse({"answer": 42})


async def ended(_request: Request) -> JSONResponse:
    error = {"code": "job-failed", "message": "it would not", "hint": None}
    return JSONResponse({"job_id": "ab", "state": "failed", "error": error})


async def refuse(_request: Request) -> JSONResponse:
    raise CoveyError("no such thing", code="unknown-thing", hint="try another")


async def count(_request: Request) -> StreamingResponse:
    async def values() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise CoveyError("too far", code="far")

    return StreamingResponse(json_lines(values()))


APP = Starlette(
    routes=[
        Route("/answer", answer),
        Route("/ended", ended),
        Route("/refuse", refuse),
        Route("/count", count, methods=["POST"]),
    ],
    exception_handlers={CoveyError: answer_error},
)


async def asked(path: Path, question: Any) -> Any:
    """Serve the application and put a blocking client's question to it from a thread."""

    def ask() -> Any:
        with ControlClient(path, hint="start it") as client:
            return question(client)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, APP, path))
        try:
            with trio.fail_after(10):
                return await trio.to_thread.run_sync(ask)
        finally:
            nursery.cancel_scope.cancel()


async def test_a_client_gets_the_answer_over_a_socket_of_its_owner_alone(socket_path: Path) -> None:
    def question(client: ControlClient) -> Any:
        return client.get("/answer"), stat.S_IMODE(socket_path.stat().st_mode)

    assert await asked(socket_path, question) == ({"answer": 42}, 0o600)
    assert not socket_path.exists()


async def test_an_error_comes_out_as_it_went_in(socket_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(CoveyError)) as caught:
        await asked(socket_path, lambda client: client.get("/refuse"))

    (error,) = caught.value.exceptions
    assert isinstance(error, CoveyError)
    assert (error.code, error.message, error.hint) == (
        "unknown-thing",
        "no such thing",
        "try another",
    )


async def test_an_error_in_the_midst_of_lines_ends_them_as_an_error(socket_path: Path) -> None:
    got: list[int] = []

    def question(client: ControlClient) -> None:
        with pytest.raises(CoveyError, match="too far"):
            got.extend(client.post_lines("/count", content=b"", query={}))

    await asked(socket_path, question)

    assert got == [1, 2]


def test_without_a_daemon_the_client_says_what_to_do(socket_path: Path) -> None:
    with pytest.raises(DaemonDownError) as e, ControlClient(socket_path, hint="start it"):
        pass

    assert e.value.hint == "start it"


async def test_an_answer_that_has_an_error_among_other_things_is_no_error(
    socket_path: Path,
) -> None:
    """How a job ended is what was asked for, also when it failed."""
    told = await asked(socket_path, lambda client: client.get("/ended"))

    assert told["state"] == "failed"
    assert told["error"]["message"] == "it would not"


async def test_a_daemon_that_hangs_is_not_waited_for(socket_path: Path) -> None:
    def ask() -> Any:
        with ControlClient(socket_path, hint="start it", answer_s=0.01) as client:
            return client.get("/answer")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen()  # connections are taken, and nobody ever answers
        with trio.fail_after(10), pytest.raises(DaemonSilentError, match="does not answer"):
            await trio.to_thread.run_sync(ask)


async def test_a_name_with_a_slash_names_nothing(socket_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(CoveyError, match="'b' names nothing")):
        await asked(socket_path, lambda client: client.get("/answer/a/b"))
