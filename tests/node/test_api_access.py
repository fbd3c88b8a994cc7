"""Who reaches the HTTP API: token, hosts, origins; and what a refused client leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from trio.testing import MockClock, wait_all_tasks_blocked

from node.api.access import Access, Draining
from node.api.openai import front
from peer.control import serve_http
from tests.support.api import TOKEN, a_pair, serving
from tests.support.machines import free_port

ASKED = "/v1/models"
OURS = Access.of(TOKEN, "192.0.2.7", ("box.example",), ("https://chat.example",))


async def ask(
    headers: dict[str, str], access: Access = OURS, method: str = "GET", path: str = ASKED
) -> httpx.Response:
    mesh, submitter, _ = a_pair()
    async with mesh.running(), serving(submitter, access=access) as api:
        return await api.client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
async def test_without_the_token_nothing_is_answered(autojump_clock: MockClock, shown: str) -> None:
    for path in (ASKED, "/", "/v1/nothing"):
        response = await ask({"Authorization": shown.encode("latin-1")}, path=path)  # type: ignore[dict-item] # httpx takes bytes

        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text


async def test_no_route_answers_without_the_token(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    async def mcp(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("it was reached")

    mesh, submitter, _ = a_pair()
    async with mesh.running(), serving(submitter, mcp=mcp) as api:
        routes = [route for route in inside(api.app).routes if isinstance(route, Route)]
        for route in routes:
            path = route.path.replace("{model:path}", "minilm")
            for method in sorted({*(route.methods or ()), "GET", "POST", "DELETE", "OPTIONS"}):
                for shown in ({"Authorization": ""}, {"Authorization": "Bearer x"}):
                    response = await api.client.request(method, path, headers=shown)
                    assert response.status_code == 401, (method, path)
            asked.append(route.path)

    assert {"/mcp", "/v1/models", "/v1/embeddings", "/v1/chat/completions"} <= set(asked)
    assert len(asked) == len(routes) == len(inside(api.app).routes)


def inside(app: Any) -> Starlette:
    """The application behind its guard."""
    while not isinstance(app, Starlette):
        app = app._app
    return app


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:4118", 200),
        ("[::1]:4118", 200),
        ("192.0.2.7", 200),
        ("box.example:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1:80@evil.example", 403),
        ("evil.example:127.0.0.1", 403),
        ("", 403),
    ],
)
async def test_only_this_nodes_host_names_are_answered(
    autojump_clock: MockClock, host: str, status: int
) -> None:
    response = await ask({"Host": host})

    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "wrong-host"


async def test_an_address_of_ipv6_is_a_host_too(autojump_clock: MockClock) -> None:
    response = await ask({"Host": "[2001:db8::7]:4118"}, Access.of(TOKEN, "2001:db8::7"))

    assert response.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://chat.example"])
async def test_web_pages_are_refused_although_they_have_the_token(
    autojump_clock: MockClock, origin: str
) -> None:
    response = await ask({"Origin": origin})

    assert response.status_code == 403
    assert response.json()["error"]["code"] == "wrong-origin"
    assert "access-control-allow-origin" not in response.headers


async def test_a_web_page_that_was_named_may_ask_with_the_token(autojump_clock: MockClock) -> None:
    page = {"Origin": "https://chat.example"}
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-any"}

    preflight = await ask({**page, **wish, "Authorization": ""}, method="OPTIONS")
    asked = await ask(page)
    refused = await ask({**page, "Authorization": ""})

    assert preflight.status_code == asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == page["Origin"]
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/v1/images/generations", 404, "unknown_url"),
        ("POST", "/v1/embeddings/", 404, "unknown_url"),
        ("GET", "/v1/embeddings", 405, "method-not-allowed"),
    ],
)
async def test_what_is_not_there_is_an_error_object(
    autojump_clock: MockClock, method: str, path: str, status: int, code: str
) -> None:
    response = await ask({}, method=method, path=path)

    error = response.json()["error"]
    assert response.status_code == status
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)


async def test_a_body_that_says_it_is_too_large_is_refused_unread(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair()
    headers = {"Content-Length": str(front.MAX_API_BODY_BYTES + 1)}

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/embeddings", content=b"{}", headers=headers)

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too-big"


async def test_a_body_that_grows_too_large_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "MAX_API_BODY_BYTES", 1_000)
    mesh, submitter, _ = a_pair()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/embeddings", content=pieces())

    assert response.status_code == 413


async def test_a_client_that_falls_silent_in_its_body_is_let_go(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        await trio.sleep_forever()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/embeddings", content=pieces())

    assert response.status_code == 408


@pytest.mark.parametrize(("token", "path"), [("wrong", "/v1/embeddings"), (TOKEN, "/nothing")])
async def test_a_client_that_still_sends_reads_its_refusal(
    token: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.access.LINGER_S", 0.1)
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        answer = await answer_to_a_large_body(api.app, token, path)

    assert answer.startswith(b"HTTP/1.1 4")
    assert b'{"error":' in answer


async def test_a_body_that_nobody_reads_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.api.access.LINGER_S", 0.1)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "this is how an application says that it has no lifespan"
        await wait_all_tasks_blocked(0.05)  # by then hypercorn's queue is full
        await Response("no", 401)(scope, receive, send)

    answer = await answer_to_a_large_body(Draining(slow), TOKEN, "/")

    assert answer.startswith(b"HTTP/1.1 401")


async def answer_to_a_large_body(app: ASGIApp, token: str, path: str) -> bytes:
    """Send some of a large body to the application behind a real server; return all that comes
    until the server closes the connection.
    """
    port = free_port()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {front.MAX_API_BODY_BYTES + 1}\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, app, f"127.0.0.1:{port}"))
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head.encode() + bytes(4 << 20))
                answer = b"".join([piece async for piece in stream])
        nursery.cancel_scope.cancel()
    return answer


def test_a_node_whose_api_is_off_does_not_even_import_it() -> None:
    check = (
        "import sys, node.daemon; off = ('node.api.openai', 'node.api.access'); "
        "sys.exit(any(name.startswith(off) for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
