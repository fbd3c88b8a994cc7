"""A GitHub on loopback, in threads: keeps state, checks what it hears and says, and fails as told.

Issues are counted here, at the server: what a client believes does not matter.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.support.github.repository import REPO, TOKEN, US, Repository
from tests.support.github.schema import Operation, operation

DROPPED = 0
SECONDARY = (
    "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
)
CONTENT = (
    "You have exceeded a secondary rate limit and have been temporarily blocked from content"
    " creation. Please retry your request again later."
)
PRIMARY = "API rate limit exceeded for user ID 4242."
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Fault:
    """What becomes of the next requests of one kind: an answer that says nothing about whether they
    took effect before it, or (``late``) take effect when ``land`` is called.
    """

    method: str
    path: str
    status: int = 502
    when: Literal["before", "after", "late"] = "before"
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class FakeGithub:
    """One repository, ``REPO``, whose bot has the token ``TOKEN``. A context manager."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.api = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.lock = threading.RLock()
        self.repository = Repository(self.api)
        self.tokens = {TOKEN: US}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.violations: list[str] = []
        self.creations_left: int | None = None
        """How many more issues may be made before the limit on content."""
        self.watch: Callable[[str, str, str], bool] = lambda moment, method, path: True
        """Told of each request ``before`` and ``after`` it takes effect; False drops it there."""
        self._late: list[Callable[[], None]] = []

    def __enter__(self) -> FakeGithub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What tests do and look at

    def fail(self, method: str, path: str, **fault: Any) -> None:
        self.faults.append(Fault(method, path, **fault))

    def land(self) -> None:
        """Let what was late take effect now."""
        late, self._late = self._late, []
        for action in late:
            action()

    def open_issue(self, author: str, title: str, body: str, *labels: str) -> int:
        """Open an issue as somebody would in the browser."""
        template = _known("POST", f"/repos/{REPO}/issues").example(201)
        content = {"title": title, "body": body, "labels": labels}
        return self.repository.create(template, content, author)["number"]

    def close_issue(self, number: int, reason: str = "completed") -> None:
        self.repository.edit(number, {"state": "closed", "state_reason": reason})

    def reopen_issue(self, number: int) -> None:
        self.repository.edit(number, {"state": "open"})

    def issue(self, number: int) -> dict[str, Any]:
        return self.repository.issues[number]

    def with_text(self, text: str) -> list[int]:
        """The numbers of all issues that hold it."""
        return [n for n, each in self.repository.issues.items() if text in (each["body"] or "")]

    def count(self, method: str, path: str) -> int:
        """How many such requests were heard."""
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)

    # Answering

    def hear(self, method: str, target: str, token: str, body: Any) -> Answer:
        """Answer one request; the status ``DROPPED`` means with nothing at all."""
        parts = urlsplit(target)
        path, query = parts.path, dict(parse_qsl(parts.query))
        self.requests.append((method, path))
        asked = operation(method, path)
        if asked is None:
            self.violations.append(f"{method} {path} is not described")
            return _error(404, "Not Found")
        if faults := asked.request_faults(query, body):
            self.violations += [f"{method} {path}: {each}" for each in faults]
            return _error(422, "Validation Failed")

        def act() -> Answer:
            status, content, headers = self._answer(asked, query, token, body)
            faults = asked.answer_faults(status, content)
            self.violations += [f"answer to {method} {path}: {each}" for each in faults]
            return status, content, headers

        return self._act(asked, path, act)

    def _act(self, asked: Operation, path: str, act: Callable[[], Answer]) -> Answer:
        fault = self._fault(asked.method, path)
        if fault and fault.when == "late":
            self._late.append(act)
        if (fault and fault.when != "after") or not self.watch("before", asked.method, path):
            return _failed(fault)
        answer = act()
        if fault or not self.watch("after", asked.method, path):
            return _failed(fault)
        return answer

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                return fault
        return None

    def _answer(self, asked: Operation, query: dict[str, str], token: str, body: Any) -> Answer:
        login = self.tokens.get(token)
        if login is None:
            return _error(401, "Bad credentials")
        arguments = asked.arguments
        if "repo" in arguments and f"{arguments['owner']}/{arguments['repo']}" != REPO:
            return _error(404, "Not Found")
        match asked.method, asked.path.removeprefix("/repos/{owner}/{repo}"):
            case "GET", "/user":
                return 200, self.repository.user(asked, login), {}
            case "GET", "":
                return 200, self.repository.itself(asked), {}
            case "GET", "/issues":
                return self._page(self.repository.listed(query), query)
            case "POST", "/issues":
                return self._create(asked, body, login)
            case "GET" | "PATCH", "/issues/{issue_number}":
                return self._issue(int(arguments["issue_number"]), body)
            case "GET", "/labels/{name}":
                label = self.repository.labels.get(arguments["name"])
                return (200, label, {}) if label else _error(404, "Not Found")
            case "POST", "/labels":
                return self._label(body)
            case _:
                found = self.repository.found(query["q"])
                items = [{**each, "score": 1.0} for each in found]
                answer = {"total_count": len(found), "incomplete_results": False, "items": items}
                return 200, answer, {}

    def _create(self, asked: Operation, body: Any, login: str) -> Answer:
        if len(body.get("body") or "") > 65_536:
            return _invalid("Issue", "body is too long (maximum is 65536 characters)")
        if self.creations_left is not None:
            if not self.creations_left:
                return _error(403, CONTENT, {"Retry-After": "60"})
            self.creations_left -= 1
        return 201, self.repository.create(asked.example(201), body, login), {}

    def _issue(self, number: int, changes: Any) -> Answer:
        if number not in self.repository.issues:
            is_deleted = number <= self.repository.number
            return _error(410, "This issue was deleted") if is_deleted else _error(404, "Not Found")
        edit = self.repository.edit
        return 200, edit(number, changes) if changes else self.repository.issues[number], {}

    def _label(self, body: Any) -> Answer:
        if body["name"] in self.repository.labels:
            return _invalid("Label", "already_exists")
        return (
            201,
            self.repository.make_label(body["name"], body["color"], body["description"]),
            {},
        )

    def _page(self, rows: list[Any], query: dict[str, str]) -> Answer:
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        headers: dict[str, str] = {}
        if len(rows) > size * page:
            following = urlencode({**query, "page": page + 1})
            headers["Link"] = f'<{self.repository.url}/issues?{following}>; rel="next"'
        return 200, rows[size * (page - 1) : size * page], headers


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    fake: FakeGithub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        token = self.headers.get("Authorization", "").partition(" ")[2]
        fake = self.server.fake
        with fake.lock:
            status, answer, headers = fake.hear(self.command, self.path, token, body)
            content = json.dumps(answer).encode()
        if status == DROPPED:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response_only(status)
        usual = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "4990"}
        headers = {"Date": self.date_time_string(), **usual, **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _known(method: str, path: str) -> Operation:
    known = operation(method, path)
    assert known is not None
    return known


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    body = {"message": message, "documentation_url": "https://docs.github.com/rest"}
    return status, {**body, "status": str(status)}, headers or {}


def _invalid(resource: str, code: str) -> Answer:
    status, body, headers = _error(422, "Validation Failed")
    return status, {**body, "errors": [{"resource": resource, "code": code}]}, headers


def _failed(fault: Fault | None) -> Answer:
    if fault is None or fault.status == DROPPED:
        return DROPPED, None, {}
    return _error(fault.status, fault.message, fault.headers)
