"""Errors as clients of OpenAI's API know them: a status, and an object ``error`` with ``message``,
``type``, ``param`` and ``code``.

Codes are covey's own, but where OpenAI has a name that its clients look for. A message never holds
a traceback: what was not foreseen is logged and reported here, and its client learns only that.
"""

from __future__ import annotations

import math
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from peer.machine import error_of_machine
from protocols.errors import CoveyError, Refused

UNFORESEEN: Final = 500
STATUSES: Final = {
    "bad-input": 400,
    "bad-output": 502,
    "context-length": 400,
    "not-submitter": 403,
    "revoked": 403,
    "too-big": 413,
    "busy": 429,
    "remote-protocol": 502,
    "cancelled": 503,
    "disk-full": 503,
    "draining": 503,
    "journal-behind": 503,
    "journal-busy": 503,
    "no-worker": 503,
    "restarted": 503,
    "retry-budget": 503,
    "worker-lost": 503,
    "expired": 504,
    "upstream-broken": 502,
    "upstream-refused": 400,
    "upstream-timeout": 504,
    "upstream-unavailable": 503,
}
"""Of errors that are not the API's own; the others are ``UNFORESEEN``."""
TYPES: Final = {403: "permission_error", 429: "rate_limit_error"}
NAMES: Final = {"busy": "rate_limit_exceeded", "context-length": "context_length_exceeded"}


class ApiError(CoveyError):
    """A request that cannot be answered: its HTTP status, and what clients need to know."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.param = param
        self.headers = headers or {}


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    """Return the error of a request that asks for what cannot be."""
    return ApiError(400, message, code="bad-input", param=param)


def response_of(error: CoveyError) -> JSONResponse:
    """Return an error as an answer."""
    content = {"error": body_of(error)}
    return JSONResponse(content, status_code=_status(error), headers=_headers(error))


def body_of(error: CoveyError) -> dict[str, str | None]:
    """Return the object that tells of an error."""
    status = _status(error)
    return {
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
        "type": TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": error.param if isinstance(error, ApiError) else error.details.get("parameter"),
        "code": NAMES.get(error.code, error.code),
    }


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for ``CoveyError``."""
    assert isinstance(error, CoveyError)
    return response_of(error)


async def answer_os_error(_request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for ``OSError``: what the machine is to blame for is told."""
    assert isinstance(error, OSError)
    told = error_of_machine(error)
    if told is None:
        raise error
    return response_of(told)


async def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for paths and methods that are not there."""
    assert isinstance(error, HTTPException)
    told = ApiError(
        error.status_code,
        f"there is no {request.method} {request.url.path} here",
        code="unknown_url" if error.status_code == 404 else "method-not-allowed",
        headers=dict(error.headers or {}),
    )
    return response_of(told)


def _status(error: CoveyError) -> int:
    if isinstance(error, ApiError):
        return error.status
    return STATUSES.get(error.code, UNFORESEEN)


def _headers(error: CoveyError) -> dict[str, str]:
    headers: dict[str, Any] = dict(error.headers) if isinstance(error, ApiError) else {}
    if isinstance(error, Refused) and error.retry_after_ms:
        headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1_000))
    if "job_id" in error.details:
        headers["X-Request-Id"] = error.details["job_id"]
    return headers
