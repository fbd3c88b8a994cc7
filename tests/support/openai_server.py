"""A server of OpenAI's protocol that says words back, and misbehaves as told: in memory for tests
with a clock of their own, and over real HTTP on loopback.
"""

from __future__ import annotations

import json
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import trio

HOLD = b"(hold)"
"""In an answer: nothing more comes until the client goes away."""
DIMENSION = 4


@dataclass
class Reply:
    """An answer: its body in the pieces in which it is sent."""

    status: int = 200
    pieces: Sequence[bytes | float] = ()
    """A number is so many seconds of pause."""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, message: str = "no", **more: Any) -> Reply:
    """An error as OpenAI's protocol has it."""
    body = {"error": {"message": message, "type": "some_error", "code": None, **more}}
    return Reply(status, [json.dumps(body).encode()])


def stream(*events: Any, end: bytes = b"data: [DONE]\n\n") -> Reply:
    """A streamed answer; events are objects, or bytes and pauses as they are."""
    pieces = [
        e if isinstance(e, bytes | float) else b"data: " + json.dumps(e).encode() + b"\n\n"
        for e in events
    ]
    return Reply(200, [*pieces, end], "text/event-stream")


@dataclass
class FakeOpenAi:
    """What it has, what it heard, and what it does wrong."""

    models: dict[str, str] = field(default_factory=lambda: {"chatty": "acme", "vectors": "acme"})
    """Its models, and who made them."""
    token: str = ""
    faults: dict[str, Callable[[], Reply]] = field(default_factory=dict)
    """Answers to give instead, by the last part of a path."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pause_after: int | None = None
    """Texts stop after so many words, until the client goes away."""
    open: int = 0
    """Answers under way."""
    most_open: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)
    """A client went away in the midst of an answer."""

    def answer(self, path: str, authorization: str, body: bytes) -> Reply:
        asked = json.loads(body) if body else {}
        self.requests.append((path, asked))
        name = path.rpartition("/")[2]
        if self.token and authorization != f"Bearer {self.token}":
            return error(401, "Incorrect API key provided")
        if name in self.faults:
            return self.faults[name]()
        if not path.startswith("/v1/"):
            return error(404)
        if path == "/v1/models":
            return self._list()
        if asked.get("model") not in self.models:
            return error(404, "no such model")
        return self._compute(path, asked)

    def of(self, name: str) -> list[dict[str, Any]]:
        """The bodies of requests for one path."""
        return [body for path, body in self.requests if path == f"/v1/{name}"]

    def began(self) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def ended(self, *, is_whole: bool) -> None:
        self.open -= 1
        if not is_whole:
            self.given_up.set()

    def _list(self) -> Reply:
        data = [
            {"id": name, "object": "model", "created": len(self.requests), "owned_by": owner}
            for name, owner in self.models.items()
        ]
        return Reply(200, [json.dumps({"object": "list", "data": data}).encode()])

    def _compute(self, path: str, asked: dict[str, Any]) -> Reply:
        if path == "/v1/embeddings":
            return _embeddings(asked["input"])
        if path == "/v1/chat/completions":
            said = asked["messages"][-1]["content"]
            return self._said(said, asked, lambda word: {"delta": {"content": word}})
        if path == "/v1/completions":
            return self._said(asked["prompt"], asked, lambda word: {"text": word})
        return error(404)

    def _said(self, said: str, asked: dict[str, Any], wrap: Callable[[str], Any]) -> Reply:
        words = [word + " " for word in said.split()][: asked["max_tokens"]]
        events: list[Any] = [{"choices": [{"index": 0, **wrap(word.upper())}]} for word in words]
        if self.pause_after is not None:
            return stream(*events[: self.pause_after], HOLD)
        reason = "stop" if len(words) == len(said.split()) else "length"
        usage = {"prompt_tokens": len(said.split()), "completion_tokens": len(words)}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        return stream(*events, last, {"choices": [], "usage": usage})


def _embeddings(texts: list[str]) -> Reply:
    data = [
        {"object": "embedding", "index": i, "embedding": [len(text), len(text) / 3, 0, 1]}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": sum(map(len, texts)), "total_tokens": sum(map(len, texts))}
    return Reply(200, [json.dumps({"object": "list", "data": data, "usage": usage}).encode()])


# In memory


class MemoryServer(httpx.AsyncBaseTransport):
    """The server behind httpx's own seam, on trio's clock."""

    def __init__(self, fake: FakeOpenAi) -> None:
        self._fake = fake

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        authorization = request.headers.get("authorization", "")
        reply = self._fake.answer(request.url.path, authorization, body)
        if reply.pieces == [HOLD]:
            await trio.sleep_forever()
        headers = {"content-type": reply.content_type, **reply.headers}
        return httpx.Response(reply.status, headers=headers, stream=_Pieces(self._fake, reply))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, fake: FakeOpenAi, reply: Reply) -> None:
        self._fake = fake
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        is_whole = False
        self._fake.began()
        try:
            for piece in self._reply.pieces:
                await trio.lowlevel.checkpoint()
                if piece == HOLD:
                    await trio.sleep_forever()
                elif isinstance(piece, bytes):
                    yield piece
                else:
                    await trio.sleep(piece)
            is_whole = True
        finally:
            self._fake.ended(is_whole=is_whole)


# Over HTTP


class OpenAiServer:
    """The server on a port of loopback, a thread a connection. A context manager."""

    def __init__(self, fake: FakeOpenAi) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = fake
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._server.connections

    def __enter__(self) -> OpenAiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeOpenAi
    connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, body: bytes) -> None:
        fake = self.server.fake
        reply = fake.answer(self.path, self.headers.get("Authorization", ""), body)
        is_whole = False
        fake.began()
        try:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            is_whole = all(self._send(piece) for piece in self._pieces(reply))
        except OSError:
            pass  # the client went away
        finally:
            fake.ended(is_whole=is_whole)
            self.close_connection = self.close_connection or not is_whole

    def _pieces(self, reply: Reply) -> Iterator[bytes]:
        yield from (piece for piece in reply.pieces if isinstance(piece, bytes))
        yield b""

    def _send(self, piece: bytes) -> bool:
        if piece == HOLD:
            select.select([self.connection], [], [], 30.0)  # readable: it was closed
            return False
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True
