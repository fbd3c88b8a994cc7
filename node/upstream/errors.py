"""What can be wrong with an upstream, as the job that met it fails: one code each.

Only ``REFUSED`` is about the job; with the others another worker may do better. Messages hold
nothing that a job's input could be read from, nor the server's address.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final

import msgspec

from node.runner.kinds.generate import TOO_LONG as CONTEXT_LENGTH
from peer.capture import exceptions_of
from peer.scrub import scrub
from protocols.errors import JobFailed

REFUSED: Final = "upstream-refused"
UNAUTHORISED: Final = "upstream-unauthorised"
MISSING: Final = "upstream-missing"
UNAVAILABLE: Final = "upstream-unavailable"
TIMEOUT: Final = "upstream-timeout"
BROKEN: Final = "upstream-broken"

WORKER_FAULTS: Final = frozenset({UNAUTHORISED, MISSING, UNAVAILABLE, TIMEOUT, BROKEN})
"""Codes that say nothing about the job."""
DOUBTS: Final = frozenset({UNAUTHORISED, UNAVAILABLE, TIMEOUT})
"""Codes after which one should look whether the upstream is there at all."""

SHOWN_CHARS: Final = 300  # of the server's own words
MAX_CHAIN: Final = 16  # exceptions below one of httpx's; there are three to five

_BY_STATUS: Final = {
    400: REFUSED,
    401: UNAUTHORISED,
    402: UNAUTHORISED,
    403: UNAUTHORISED,
    404: MISSING,
    405: MISSING,
    407: UNAUTHORISED,
    408: TIMEOUT,
    413: REFUSED,
    422: REFUSED,
    429: UNAVAILABLE,
    501: MISSING,
    504: TIMEOUT,
}
_SENTENCES: Final = {
    REFUSED: "the upstream refused the request with status {}",
    UNAUTHORISED: "the upstream did not let this node in: status {}",
    MISSING: "the upstream has no such path or model: status {} for {}",
    UNAVAILABLE: "the upstream cannot answer now: status {}",
    TIMEOUT: "the upstream gave up: status {}",
    BROKEN: "the upstream answered with the unforeseen status {}",
}


TOO_LONG: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
"""What OpenAI's servers and llama.cpp's call a prompt that does not fit."""


class _Told(msgspec.Struct, frozen=True):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _Envelope(msgspec.Struct, frozen=True):
    """OpenAI's error object; some servers put its fields at the top."""

    error: _Told | str | None = None
    message: str = ""


def broken(what: str) -> JobFailed:
    """Return the failure of an answer that is none."""
    return JobFailed(f"the upstream's answer makes no sense: {what}", code=BROKEN)


def too_slow(what: str, limit_s: float) -> JobFailed:
    """Return the failure of an answer that does not come."""
    return JobFailed(f"the upstream sent {what} within {limit_s:g} s", code=TIMEOUT)


def unreachable(error: Exception) -> JobFailed:
    """Return the failure of a connection; the reason is the operating system's, if it has one."""
    return JobFailed(f"the upstream cannot be reached: {_root_of(error)}", code=UNAVAILABLE)


def of_status(status: int, path: str, body: bytes) -> JobFailed:
    """Return the failure that an HTTP status means.

    Why a job was refused is told to its submitter in the server's words, scrubbed. They may repeat
    the job's input, so that the report that is recorded does without them.
    """
    code = _BY_STATUS.get(status, UNAVAILABLE if status >= 500 else BROKEN)
    sentence = _SENTENCES[code].format(status, path)
    told = _told(body) if code == REFUSED else _Told()
    if {told.type, told.code} & TOO_LONG:
        code = CONTEXT_LENGTH
    plain = JobFailed(sentence, code=code)
    if not (words := scrub(told.message)[:SHOWN_CHARS]):
        return plain
    try:
        raise plain
    except JobFailed:
        reported = exceptions_of(plain)
    return JobFailed(f"{plain.message}: {words}", code=code, exceptions=reported)


def _told(body: bytes) -> _Told:
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Told()
    if isinstance(envelope.error, _Told):
        return envelope.error
    return _Told(envelope.error or envelope.message)


def _root_of(error: BaseException) -> str:
    """Say what the operating system had to say, without the address that its words often hold."""
    root = _deepest(error)
    if isinstance(root, ssl.SSLError):
        return str(root.reason)
    if isinstance(root, socket.gaierror):
        return "its name is not known"
    if isinstance(root, OSError) and root.errno:
        return os.strerror(root.errno)
    return type(root).__name__


def _deepest(error: BaseException) -> BaseException:
    for _ in range(MAX_CHAIN):
        inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())  # of a group
        below = inside[0] if inside else error.__cause__ or error.__context__
        if below is None:
            break
        error = below
    return error
