"""The error report: one occurrence of an error, as attributes of a record ``error.report``.

A report holds what a person needs to find the fault and nothing that identifies whom it happened
to: the chain of exceptions with module, function and line of each frame, but no local variable,
argument vector, environment or file path. Its text was scrubbed before the fingerprint was taken.
Names are OpenTelemetry's and Sentry's where they have one. See ``docs/protocols/report.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, cast

import cbor2
import msgspec
from msgspec import Meta

from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_REPORT_BYTES,
    MAX_REPORT_CHAIN,
    MAX_REPORT_FRAMES,
    MAX_REPORT_MESSAGE_CHARS,
    MAX_REPORT_NAME_CHARS,
    MAX_REPORT_TAGS,
)

RECORD_KIND: Final = "error.report"
DEFAULT_ROOTS: Final = ("protocols", "peer", "node", "aggregator")

Name = Annotated[str, Meta(max_length=MAX_REPORT_NAME_CHARS)]
Message = Annotated[str, Meta(max_length=MAX_REPORT_MESSAGE_CHARS)]
TagValue = Annotated[str, Meta(max_length=MAX_REPORT_NAME_CHARS // 2)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
CidText = Annotated[str, Meta(pattern="^(b[a-z2-7]{20,120})?$")]
JobId = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")]
Count = Annotated[int, Meta(ge=1, le=1 << 53)]
Moment = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Level = Literal["fatal", "error", "warning", "info", "debug"]


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call on the stack: where the code is, never what it held."""

    module: Name
    function: Name
    line: Annotated[int, Meta(ge=0, le=1 << 31)] = msgspec.field(default=0, name="lineno")
    generated: bool = False
    """The code came from ``exec`` or the like, so that its name may differ between runs."""


class ExceptionInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exception of a chain; ``frames`` run from the outermost call to the one that raised."""

    type: Name
    module: Name = ""
    value: Message = msgspec.field(default="", name="message")
    frames: Annotated[tuple[Frame, ...], Meta(max_length=MAX_REPORT_FRAMES)] = ()


class Report(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One occurrence of an error, or ``count`` of them that a peer counted instead of telling each.

    ``exceptions`` runs from the outermost exception to the root cause. ``fingerprint`` and
    ``coarse`` are hexadecimal digests that whoever merges reports computes again
    (``protocols.fingerprint.is_honest``).
    """

    version: Literal[1] = 1
    time_us: Moment = msgspec.field(name="timestamp_us")
    level: Level = "error"
    exceptions: Annotated[
        tuple[ExceptionInfo, ...], Meta(min_length=1, max_length=MAX_REPORT_CHAIN)
    ]
    fingerprint: Digest
    coarse: Digest = msgspec.field(name="fingerprint.coarse")
    fingerprint_version: Literal[1] = msgspec.field(default=1, name="fingerprint.version")
    component: Name = ""
    release: Name = ""
    environment: Name = ""
    job_id: JobId = msgspec.field(default="", name="job.id")
    job_cid: CidText = msgspec.field(default="", name="job.cid")
    model: Name = ""
    tags: Annotated[dict[Name, TagValue], Meta(max_length=MAX_REPORT_TAGS)] = {}
    in_app_include: Annotated[tuple[Name, ...], Meta(max_length=8)] = ()
    """Packages whose frames are the program's own; none stands for covey's (``DEFAULT_ROOTS``)."""
    count: Count = 1

    def to_attributes(self) -> dict[str, Any]:
        """Return the report as DAG-CBOR values.

        The outermost exception lies flat under ``exception.*``, the others under
        ``exception.causes``. Defaults are left out, but for those that a reader must not guess.
        """
        attributes = _with_lists(msgspec.to_builtins(self))
        attributes |= {"version": 1, "fingerprint.version": 1, "level": self.level}
        outermost, *causes = map(_with_lists, attributes.pop("exceptions"))
        attributes |= {_PREFIX + name: value for name, value in outermost.items()}
        if causes:
            attributes[_CAUSES] = causes
        return attributes

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Report:
        """Return the report that a record's attributes hold; unknown names are ignored.

        Raises ``RemoteProtocolError`` for anything but a complete report within every limit.
        """
        if not all(isinstance(name, str) for name in cast("Mapping[Any, Any]", attributes)):
            raise RemoteProtocolError("a report's names are not all text")
        if (size := size_bytes(attributes)) > MAX_REPORT_BYTES:
            raise RemoteProtocolError(
                f"a report of {size} bytes is over the limit of {MAX_REPORT_BYTES}", got=size
            )
        try:
            return msgspec.convert(_nest(attributes), type=cls)
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a report is invalid: {error}") from error


_PREFIX: Final = "exception."
_CAUSES: Final = "exception.causes"
_NEEDED: Final = ("version", "fingerprint.version")  # defaults in memory, never to be guessed


def _with_lists(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as a decoder would give them, which knows no tuples."""
    return {
        name: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
        for name, value in fields.items()
    }


def _nest(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``to_attributes``: gather the flat exception and its causes into one list."""
    fields = {name: value for name, value in attributes.items() if not name.startswith(_PREFIX)}
    for name in _NEEDED:
        fields.setdefault(name, None)
    outermost = {
        name.removeprefix(_PREFIX): value
        for name, value in attributes.items()
        if name.startswith(_PREFIX) and name != _CAUSES
    }
    causes = attributes.get(_CAUSES, [])
    if not isinstance(causes, list):
        raise RemoteProtocolError("a report's causes are not a list")
    fields["exceptions"] = [outermost, *cast("list[Any]", causes)]
    return fields


def size_bytes(attributes: Mapping[str, Any]) -> int:
    """Return the length as CBOR; without floats that is the length as DAG-CBOR too."""
    try:
        return len(cbor2.dumps(attributes))
    except (cbor2.CBOREncodeError, UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"a report cannot be encoded: {error}") from error


class Trim(NamedTuple):
    """How much of a chain of exceptions to keep."""

    chain: int
    frames: int
    message_chars: int


TRIMS: Final = (
    Trim(MAX_REPORT_CHAIN, MAX_REPORT_FRAMES, MAX_REPORT_MESSAGE_CHARS),
    Trim(MAX_REPORT_CHAIN, 40, 1_000),
    Trim(MAX_REPORT_CHAIN, 10, 500),
    Trim(2, 2, 200),
)
"""Tried in order until a report fits; the last always does, even in characters of four bytes."""


def trim(exceptions: tuple[ExceptionInfo, ...], size: Trim) -> tuple[ExceptionInfo, ...]:
    """Keep the outermost exception, the last causes, outer and inner frames, messages' starts."""
    return tuple(
        ExceptionInfo(
            type=_cut(each.type),
            module=_cut(each.module),
            value=each.value[: size.message_chars],
            frames=tuple(
                Frame(_cut(frame.module), _cut(frame.function), frame.line, frame.generated)
                for frame in _middle_out(each.frames, size.frames)
            ),
        )
        for each in exceptions[:1] + exceptions[1:][-(size.chain - 1) :]
    )


def _middle_out(frames: tuple[Frame, ...], limit: int) -> tuple[Frame, ...]:
    return frames if len(frames) <= limit else frames[: limit // 2] + frames[-(limit // 2) :]


def _cut(name: str) -> str:
    return name[:MAX_REPORT_NAME_CHARS]
