"""Submitting a job through the daemon's control API."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peer.control import DaemonDownError

if TYPE_CHECKING:
    from peer.control import ControlClient


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


def run(
    control: ControlClient, job: JobRequest, on_progress: Callable[[dict[str, Any]], None]
) -> JobOutcome:
    """Submit ``job``, report its progress and return its outcome; raises what the daemon answers as
    ``CoveyError``.
    """
    query: dict[str, Any] = {
        "kind": job.kind,
        "model": job.model,
        "items": job.items,
        "precision": job.precision,
        "timeout_s": job.timeout_s,
    }
    for name in ("device", "min_memory_mb", "min_speed", "peer", "job_id"):
        if (value := getattr(job, name)) is not None:
            query[name] = value
    output = bytearray()
    summary: dict[str, Any] = {}
    for event in control.post_lines("/run", content=job.input, query=query):
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
        raise DaemonDownError(
            "the node stopped before the job had its result",
            hint="start it and run the job again; with a --job-id it is the same job",
        )
    return JobOutcome(bytes(output), summary)
