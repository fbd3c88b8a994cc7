"""Errors that protocol logic raises; the type says whose fault it is.

::

    CoveyError                  everything of ours
    ├── LocalProtocolError      our own code broke a rule
    ├── RemoteProtocolError     a peer, file or user sent what the protocol forbids
    ├── TransportError          the network did not carry it
    │   ├── PeerUnreachableError    no address of the peer answered
    │   └── StreamLostError         the stream ended without its explicit end
    ├── Refused                 a normal "no", with a reason code
    └── JobFailed               the job itself failed on its worker

Every error carries a stable ``code``, data about what happened, and a ``hint`` where a person can
act on it.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CoveyError(Exception):
    """Anything of ours that went wrong: one sentence, a stable code, data, and a hint if a person
    can act.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.details = details


class LocalProtocolError(CoveyError):
    """Our own code asked for an illegal step; nothing was changed or sent."""

    default_code = "local-protocol"


class RemoteProtocolError(CoveyError):
    """Bytes from outside that the protocol forbids; they were not acted upon."""

    default_code = "remote-protocol"


class TransportError(CoveyError):
    """The network did not carry what was asked of it."""

    default_code = "transport"


class PeerUnreachableError(TransportError):
    """None of the peer's addresses answered as that peer."""

    default_code = "peer-unreachable"


class StreamLostError(TransportError):
    """The stream was reset, timed out or ended without its explicit end; what came before it may be
    incomplete.
    """

    default_code = "stream-lost"


class Refused(CoveyError):  # noqa: N818 - an answer, not an error
    """A peer's normal "no": ``code`` says why, ``retry_after_ms`` when asking again makes sense."""

    default_code = "refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_ms: int | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, code=code, **details)
        self.retry_after_ms = retry_after_ms


class JobFailed(CoveyError):  # noqa: N818 - the outcome of a job, not a fault of ours
    """The job failed on its worker; ``exceptions`` is the chain as the worker saw it, outermost
    first.
    """

    default_code = "job-failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        exceptions: tuple[Any, ...] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, code=code, **details)
        self.exceptions = exceptions
