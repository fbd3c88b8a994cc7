"""The control API's two ends: a Starlette application on a unix socket (0600), and the client that
commands use.

Errors travel as ``{"error": {"code", "message", "hint"}}`` and nothing else, and come out of the
client as ``CoveyError``. Long answers are JSON lines; an error in their midst is a last line of the
same form.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import trio

from peer.machine import error_of_machine
from protocols.errors import CoveyError

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path on Linux, less its terminator
STOP_GRACE_S: Final = 2.0  # an open stream may not hold the daemon's stop longer than this
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_S: Final = 30.0  # what is asked for so is known or on the disk; leaving takes 10 s
SUMMARY_HEADER: Final = "x-covey-summary"
"""Says in JSON what the body of a download holds."""
NOT_FOUND: Final = 404
PATH: Final = re.compile(r"(/[A-Za-z0-9._:-]+)+")


class DaemonDownError(CoveyError):
    """No daemon answers on the control socket."""

    default_code = "daemon-down"


class DaemonSilentError(CoveyError):
    """A daemon is there and does not answer in time."""

    default_code = "daemon-silent"


async def serve(
    app: Starlette, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` on a unix socket that only its owner may open, until cancelled; the caller
    holds the home's lock.
    """
    listener = _bind(path)
    try:
        # hypercorn closes the descriptor that it is given, so ownership passes here
        await serve_http(app, f"fd://{listener.detach()}", task_status=task_status)
    finally:
        path.unlink(missing_ok=True)


async def serve_http(
    app: ASGIApp, bind: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``app`` at hypercorn's ``bind`` address until cancelled."""
    import hypercorn.trio
    from hypercorn.config import Config

    config = Config()
    config.bind = [bind]
    config.graceful_timeout = STOP_GRACE_S
    config.errorlog = None
    stop = trio.Event()

    async def serve_until_stop(*, task_status: trio.TaskStatus[Any]) -> None:
        # hypercorn leaks its listeners when it is cancelled, so it is asked to stop instead
        with trio.CancelScope(shield=True):
            await cast("Any", hypercorn.trio).serve(
                app, config, shutdown_trigger=stop.wait, task_status=task_status
            )

    async with trio.open_nursery() as nursery:
        try:
            await _start(nursery, serve_until_stop, bind)
            task_status.started()
            await trio.sleep_forever()
        finally:
            stop.set()


async def _start(nursery: trio.Nursery, service: Any, bind: str) -> None:
    try:
        await nursery.start(service)
    except* OSError as group:
        reason = group.exceptions[0]
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        raise CoveyError(
            f"can't listen on {bind}: {getattr(reason, 'strerror', None) or reason}",
            code="listen",
            hint="another program has that port, or the address is not of this machine",
        ) from reason


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise CoveyError(
            f"the control socket's path is longer than {MAX_SOCKET_PATH_BYTES} bytes: {path}",
            code="home-unusable",
            hint="use a state directory with a shorter path",
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


def error_body(error: CoveyError) -> dict[str, Any]:
    """Return the JSON form of an error."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


async def answer_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for ``CoveyError``."""
    from starlette.responses import JSONResponse

    assert isinstance(error, CoveyError)
    return JSONResponse(
        error_body(error), status_code=NOT_FOUND if error.code.startswith("unknown") else 409
    )


async def answer_os_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for ``OSError``: what the machine is to blame for is told, not hidden."""
    from starlette.responses import JSONResponse

    assert isinstance(error, OSError)
    told = error_of_machine(error)
    if told is None:
        raise error
    return JSONResponse(error_body(told), status_code=409)


HANDLERS: Final[dict[Any, Any]] = {CoveyError: answer_error, OSError: answer_os_error}
"""The exception handlers of every application."""


async def json_lines(values: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Encode ``values`` as JSON lines; a ``CoveyError`` becomes the last line."""
    try:
        async for value in values:
            yield json.dumps(value).encode() + b"\n"
    except CoveyError as error:
        yield json.dumps(error_body(error)).encode() + b"\n"


class ControlClient:
    """A command's connection to the daemon of one home. Entering it raises ``DaemonDownError`` when
    none answers, and so does every call when it goes away. A call for one answer raises
    ``DaemonSilentError`` after ``answer_s`` (None: never) without a sign of life; lines are waited
    for, because what they tell of takes its time.
    """

    def __init__(self, path: Path, *, hint: str, answer_s: float | None = ANSWER_S) -> None:
        import httpx

        self._hint = hint
        self._path = path
        self._answer_timeout = httpx.Timeout(answer_s, connect=CONNECT_TIMEOUT_S)
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        transport = httpx.HTTPTransport(uds=os.fspath(path))
        self._http = httpx.Client(transport=transport, base_url="http://covey", timeout=timeout)

    def __enter__(self) -> ControlClient:
        # httpcore leaks its socket when connecting fails, so first ask whether somebody listens
        if not is_listening(self._path):
            raise self._nobody()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON answer of a GET."""
        return self._json("GET", path, params=query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Return the JSON answer of a POST."""
        return self._json("POST", path, json=body, params=query)

    def post_lines(self, path: str, *, content: bytes, query: dict[str, Any]) -> Iterator[Any]:
        """POST ``content`` and yield the answer's JSON lines as they come."""
        return self._lines("POST", path, content=content, params=query)

    def get_lines(self, path: str, **query: Any) -> Iterator[Any]:
        """GET and yield the answer's JSON lines as they come."""
        return self._lines("GET", path, params=query)

    def post_content(self, path: str, *, content: bytes, query: dict[str, Any]) -> Any:
        """POST ``content`` and return the JSON answer."""
        return self._json("POST", path, content=content, params=query)

    def download(self, path: str, out: BinaryIO, **query: Any) -> Any:
        """Write the answer of a GET to ``out`` as it comes; return the summary in its header."""
        import httpx

        _check_path(path)
        try:
            with self._http.stream("GET", path, params=query) as response:
                if response.is_error:
                    response.read()
                    answer_of(response)
                out.writelines(response.iter_bytes())
                return json.loads(response.headers[SUMMARY_HEADER])
        except httpx.TransportError as error:
            raise self._down(error) from error

    def _lines(self, method: str, path: str, **arguments: Any) -> Iterator[Any]:
        import httpx

        self._check_open()
        try:
            with self._http.stream(method, path, **arguments) as response:
                if response.is_error:
                    response.read()
                    answer_of(response)
                for line in response.iter_lines():
                    yield raise_error(json.loads(line))
        except httpx.TransportError as error:
            raise self._down(error) from error

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx

        _check_path(path)
        self._check_open()
        try:
            return answer_of(
                self._http.request(method, path, timeout=self._answer_timeout, **arguments)
            )
        except httpx.TimeoutException as error:
            raise silent() from error
        except httpx.TransportError as error:
            raise self._down(error) from error

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise closed_error()

    def _down(self, error: Exception) -> DaemonDownError:
        import httpx

        if isinstance(error, httpx.ConnectError):
            return self._nobody()
        return DaemonDownError(
            "the daemon went away before it answered", hint="see the daemon's log"
        )

    def _nobody(self) -> DaemonDownError:
        return DaemonDownError(f"no daemon answers at {self._path}", hint=self._hint)


def is_listening(path: Path) -> bool:
    """Say whether somebody accepts connections on a control socket."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def closed_error() -> CoveyError:
    """The error for a client that is used after its ``with`` block."""
    return CoveyError(
        "the connection to the daemon is closed",
        code="closed",
        hint="use it inside its `with` block",
    )


def silent() -> DaemonSilentError:
    """Return the error for a daemon that hangs."""
    return DaemonSilentError(
        "the daemon runs and does not answer",
        hint="see its log and its machine's load; if it stays so, start it anew",
    )


def _check_path(path: str) -> None:
    if not PATH.fullmatch(path):
        raise _nameless(path)


def _nameless(path: str) -> CoveyError:
    name = path.rpartition("/")[2]
    return CoveyError(f"{name!r} names nothing", code="bad-input", hint="see --help")


def answer_of(response: httpx.Response) -> Any:
    """Return what an application of ours answered, or raise the error that it is."""
    try:
        return raise_error(response.json())
    except json.JSONDecodeError as error:
        if response.status_code == NOT_FOUND:  # a name with a slash, which is another path
            raise _nameless(response.request.url.path) from error
        raise CoveyError(
            f"the daemon answered {response.status_code} without JSON",
            code="daemon-fault",
            hint="see the daemon's log",
        ) from error


def raise_error(value: Any) -> Any:
    """Return an answer, or raise the error that it is; one that tells of an error among other
    things, such as how a job ended, is an answer.
    """
    match value:
        case {"error": {"code": str(code), "message": str(message), "hint": hint}, **rest} if (
            not rest
        ):
            raise CoveyError(message, code=code, hint=hint)
        case _:
            return value
