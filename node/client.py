"""Submitting a job through the daemon's control API."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peer.control import DaemonDownError

if TYPE_CHECKING:
    from peer.control import ControlClient

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a client asks of the daemon; ``input`` is already in the kind's encoding."""

    kind: str
    model: str
    input: bytes
    items: int
    precision: str = "auto"
    peer: str | None = None
    timeout_s: float = 600.0
    job_id: str | None = None
    """32 hexadecimal digits: with the same ones, a job may be submitted again when its answer was
    lost."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The accepted result: ``output`` in the kind's encoding, and what is known about how it came
    to be.
    """

    output: bytes
    summary: dict[str, Any]


def run(control: ControlClient, job: JobRequest, on_progress: OnProgress) -> JobOutcome:
    """Submit ``job``, report its progress and return its outcome; raises what the daemon answers as
    ``CoveyError``.
    """
    lines = control.post_lines("/run", content=job.input, query=_query(job))
    return _outcome(
        lines, on_progress, "start it and run the job again; with a --job-id it is the same job"
    )


def submit(control: ControlClient, job: JobRequest) -> dict[str, Any]:
    """Have the node promise to do ``job``; return its id, and whether it is new."""
    return control.post_content("/jobs", content=job.input, query=_query(job))


def result(control: ControlClient, job_id: str, on_progress: OnProgress) -> JobOutcome:
    """Wait for a submitted job and return its outcome; raises what it failed with as
    ``CoveyError``.
    """
    lines = control.get_lines(f"/jobs/{job_id}/result")
    return _outcome(lines, on_progress, "start it: it goes on with the job, and ask again")


def _query(job: JobRequest) -> dict[str, Any]:
    query = {
        "kind": job.kind,
        "model": job.model,
        "items": job.items,
        "precision": job.precision,
        "timeout_s": job.timeout_s,
        "peer": job.peer,
        "job_id": job.job_id,
    }
    return {name: value for name, value in query.items() if value is not None}


def _outcome(lines: Iterable[Any], on_progress: OnProgress, hint: str) -> JobOutcome:
    output = bytearray()
    summary: dict[str, Any] = {}
    for event in lines:
        match event:
            case {"progress": progress}:
                on_progress(progress)
            case {"output": chunk}:
                output += base64.b64decode(chunk)
            case {"result": summary}:
                pass
            case _:
                pass  # a newer daemon may say more
    if not summary:
        raise DaemonDownError("the node stopped before the job had its result", hint=hint)
    return JobOutcome(bytes(output), summary)
