"""What commands say to the daemon about jobs, over its control socket."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from node.errors import InputError
from node.runner.kinds import BadInputError, Items, Reader, kind_named
from peer.control import DaemonDownError

if TYPE_CHECKING:
    from peer.control import ControlClient

ASK_AGAIN: Final = "start it: it goes on with the job, and ask again"
RUN_AGAIN: Final = "start it and run the job again; with a --job-id it is the same job"

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
    if isinstance(items, (str, bytes)):
        raise BadInputError("the input is one item, not a list of them", hint="put it in a list")
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
    count = codec.count(content)
    return JobRequest(kind=kind, input=content, items=count, tokens=tokens, **wanted)


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


def result(control: ControlClient, job_id: str, on_progress: OnProgress) -> JobOutcome:
    """Wait for a submitted job and return its outcome; raises what it failed with as
    ``CoveyError``.
    """
    lines = control.get_lines(f"/jobs/{job_id}/result")
    return _outcome(lines, on_progress, ASK_AGAIN)


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
            raise DaemonDownError("the node stopped before the job had its result", hint=hint)
        return JobOutcome(bytes(self._output), self._summary)


def _outcome(lines: Iterable[Any], on_progress: OnProgress, hint: str) -> JobOutcome:
    collected = Collected()
    for event in lines:
        if "progress" in event:
            on_progress(event["progress"])
        collected.add(event)
    return collected.outcome(hint)
