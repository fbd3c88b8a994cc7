"""What commands say to the daemon about jobs, over its control socket."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from node.errors import InputError
from node.runner.kinds import BadInputError, Items, Reader, kind_named
from peer.control import DaemonDownError

if TYPE_CHECKING:
    from peer.control import ControlClient

ASK_AGAIN: Final = "start it with `covey up` and ask again"
RUN_AGAIN: Final = "start it and run the job again; with a --job-id it is the same job"
COMEBACK_S: Final = 60.0  # a node that a supervisor starts again is there in ten
POLL_S: Final = 0.25

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a client asks of the daemon; ``input`` is already in the kind's encoding."""

    kind: str
    model: str
    input: bytes
    items: int
    precision: str = "auto"
    device: str | None = None
    min_memory_mb: int | None = None
    min_speed: float | None = None
    peer: str | None = None
    timeout_s: float = 600.0
    verify: int = 0
    """How many other peers run it again, to compare."""
    job_id: str | None = None
    """32 hexadecimal digits: with the same ones, a job may be submitted again when its answer was
    lost."""
    stream: bool = False
    """Whether ``run`` is to tell of the output while it comes into being."""
    tokens: int = 0
    """How many it may write, of kinds that write tokens."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The accepted result: ``output`` in the kind's encoding, and what is known about how it came
    to be.
    """

    output: bytes
    summary: dict[str, Any]


def prepare(kind: str, items: Items, options: Mapping[str, Any]) -> JobRequest:
    """Return the request for a job of ``kind``.

    Of ``options``, those that the kind has as parameters become part of its input, and the others
    are fields of ``JobRequest``. Raises ``BadInputError`` for items, parameters or options that the
    kind does not take.
    """
    if isinstance(items, (str, bytes)) or not isinstance(cast("object", items), Sequence):
        raise BadInputError("the input is no list of items", hint="put it in a list")
    codec = kind_named(kind)
    named = {parameter.name for parameter in codec.PARAMETERS}
    own = {field.name for field in fields(JobRequest)} - {"kind", "items", "tokens", "input"}
    for name in options:
        if name not in named | own:
            known = ", ".join(sorted(named)) or "none"
            raise BadInputError(f"{kind} takes no {name}", hint=f"parameters of {kind}: {known}")
    content = codec.encode_input(items, {n: v for n, v in options.items() if n in named})
    wanted = {name: value for name, value in options.items() if name in own}
    tokens = codec.COUNT_TOKENS(content) if codec.COUNT_TOKENS else 0
    sizes = {"items": codec.count(content), "tokens": tokens}
    try:
        return msgspec.convert({**wanted, **sizes, "kind": kind, "input": content}, JobRequest)
    except msgspec.ValidationError as error:
        raise BadInputError(f"an option is of the wrong type: {error}") from error


def run(control: ControlClient, job: JobRequest, on_progress: OnProgress) -> JobOutcome:
    """Submit ``job``, report its progress and return its outcome; raises what the daemon answers as
    ``CoveyError``.
    """
    lines = control.post_lines("/run", content=job.input, query=query_of(job))
    return _outcome(lines, on_progress, RUN_AGAIN)


def stream(
    control: ControlClient, job: JobRequest, on_delta: Callable[[Delta], None]
) -> JobOutcome:
    """As ``run``, and tell of the texts of an output while they come into being.

    Raises ``InputError`` for kinds whose outputs come whole.
    """
    reader = kind_named(job.kind).READER
    if reader is None:
        raise InputError(
            f"{job.kind} emits nothing while it computes", hint="its result comes without --stream"
        )
    deltas = Deltas(reader)
    lines = control.post_lines("/run", content=job.input, query={**query_of(job), "stream": True})

    def told() -> Iterator[Any]:
        for event in lines:
            for delta in deltas.add(event):
                on_delta(delta)
            yield event

    return _outcome(told(), lambda _: None, RUN_AGAIN)


def submit(control: ControlClient, job: JobRequest) -> dict[str, Any]:
    """Have the node promise to do ``job``; return its id, and whether it is new."""
    return control.post_content("/jobs", content=job.input, query=query_of(job))


def result(
    control: ControlClient,
    job_id: str,
    on_progress: OnProgress,
    on_away: Callable[[], None] = lambda: None,
    comeback_s: float = COMEBACK_S,
    timeout_s: float = math.inf,
) -> JobOutcome:
    """Wait for a submitted job and return its outcome; raises what it failed with as
    ``CoveyError``. ``on_away`` is told when the node stops meanwhile; if it is started again within
    ``comeback_s``, it is asked again, and else ``DaemonDownError`` is raised. It raises with the
    code ``not-over`` if the job takes longer than ``timeout_s``.
    """
    while True:
        lines = control.get_lines(f"/jobs/{job_id}/result", wait_s=timeout_s)
        try:
            return _outcome(lines, on_progress, "")
        except DaemonDownError as error:
            on_away()
            if not _comes_back(control, comeback_s):
                raise DaemonDownError(
                    f"the node stopped while job {job_id} was waited for; it goes on with the job "
                    "when it is started again",
                    hint=ASK_AGAIN,
                ) from error


def _comes_back(control: ControlClient, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        with suppress(DaemonDownError):
            control.get("/status")
            return True
    return False


def follow(
    control: ControlClient, job_id: str, new_reader: Callable[[], Reader]
) -> Iterator[Delta]:
    """Yield what comes of the texts of a submitted job, from their beginning on; raises as
    ``result`` does.
    """
    read, collected = Deltas(new_reader), Collected()
    for event in control.get_lines(f"/jobs/{job_id}/result", stream="true"):
        yield from read.add(event)
        collected.add(event)
    collected.outcome(ASK_AGAIN)


def query_of(job: JobRequest) -> dict[str, Any]:
    """Return a request as the parameters of ``POST /run`` and ``POST /jobs``."""
    query = {
        "kind": job.kind,
        "model": job.model,
        "items": job.items,
        "tokens": job.tokens or None,
        "precision": job.precision,
        "timeout_s": job.timeout_s,
        "device": job.device,
        "min_memory_mb": job.min_memory_mb,
        "min_speed": job.min_speed,
        "peer": job.peer,
        "verify": job.verify or None,
        "job_id": job.job_id,
        "stream": True if job.stream else None,
    }
    return {name: value for name, value in query.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Delta:
    """More of a text: ``text`` continues that of item ``index``. With ``is_anew`` everything that
    came before is void, for another worker goes on and computes in another way.
    """

    index: int
    text: str
    is_anew: bool = False


class Deltas:
    """Reads the lines about an output that grows, with what its kind's ``READER`` makes."""

    def __init__(self, new_reader: Callable[[], Reader]) -> None:
        self._new_reader = new_reader
        self._reader = new_reader()

    def add(self, event: Any) -> list[Delta]:
        """Take in one line and return what it says of the texts."""
        match event:
            case {"output": chunk}:
                parts = self._reader.feed(base64.b64decode(chunk))
                return [Delta(part.index, part.text) for part in parts if part.text]
            case {"restart": True}:
                self._reader = self._new_reader()
                return [Delta(0, "", is_anew=True)]
            case _:
                return []


def stopped(hint: str) -> DaemonDownError:
    """Return the error for a node that went away while a job was waited for."""
    return DaemonDownError("the node stopped before the job had its result", hint=hint)


class Collected:
    """An answer's lines put together."""

    def __init__(self) -> None:
        self._output = bytearray()
        self._summary: dict[str, Any] = {}

    def add(self, event: Any) -> None:
        """Take in one line."""
        match event:
            case {"output": chunk}:
                self._output += base64.b64decode(chunk)
            case {"restart": True}:  # another worker goes on, and computes in another way
                self._output.clear()
            case {"result": summary}:
                self._summary = summary
            case _:
                pass  # progress; a newer daemon may say more

    def outcome(self, hint: str) -> JobOutcome:
        """Return what came; raises ``DaemonDownError`` when the end is missing."""
        if not self._summary:
            raise stopped(hint)
        return JobOutcome(bytes(self._output), self._summary)


def _outcome(lines: Iterable[Any], on_progress: OnProgress, hint: str) -> JobOutcome:
    collected = Collected()
    try:
        for event in lines:
            if "progress" in event:
                on_progress(event["progress"])
            collected.add(event)
    except DaemonDownError as error:
        raise stopped(hint) from error
    return collected.outcome(hint)
