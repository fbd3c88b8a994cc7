"""The jobs that this node has promised to carry: a folder each, so that they outlive the daemon.

::

    jobs/<job id>/input       the input, in the kind's encoding
                  job.json    what was asked for; written last: with it, the job exists
                  output      the output that is about to be accepted
                  taken.json  what is known about that output
                  end.json    how the job ended; written last: with it, the job is over

                  log.jsonl   what happened on the way; not synced
    jobs/<job id>.damaged/    a job of which a file could not be read

All but the log is written whole or not at all and is on the disk when the call returns. All of it
blocks; the daemon calls it from a worker thread.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import msgspec

from node.errors import UnknownError
from node.job import JobSpec
from node.life_steps import AGAIN, ENDED, SUBMITTED, WAITS, life_step
from node.submissions import other_specification
from peer.durable import make_folder_durably, remove_durably, write_durably
from protocols.errors import CoveyError
from protocols.job import JOB_ID_BYTES
from protocols.job_history import OF_OFFERS

T = TypeVar("T")

log = logging.getLogger(__name__)

KEEP_ENDED_S: Final = 7 * 86_400  # people look at last week's jobs
MAX_ENDED_JOBS: Final = 10_000
MAX_OUTPUT_BYTES: Final = 1 << 30  # of ended jobs; the oldest go first
MAX_OFFERS_LOG_BYTES: Final = 256 << 10  # then only attempts and life steps: a day of refusals ends

_NAME: Final = re.compile(f"[0-9a-f]{{{2 * JOB_ID_BYTES}}}")


class KeptJob(msgspec.Struct, frozen=True):
    """What a client asked for and when; ``spec`` is without its input."""

    spec: JobSpec
    input_digest: str
    submitted_us: int
    tried_us: int | None = None
    """When it was asked for once more, after it had ended without a result."""

    def deadline_us(self) -> int:
        """When its time is up, by the wall clock."""
        return (self.tried_us or self.submitted_us) + self.spec.budget_ms * 1_000

    def is_of(self, spec: JobSpec) -> bool:
        """Whether ``spec`` asks for this very job."""
        return (self.spec, self.input_digest) == (replace(spec, input=b""), _digest(spec.input))


class Promise(Enum):
    """What became of a job that a client asked for."""

    NEW = "new"
    AGAIN = "again"
    """It had ended without a result, and is not over any more."""
    KNOWN = "known"
    """It is not over, or has its result."""


class JobEnd(msgspec.Struct, frozen=True):
    """How a kept job ended: ``done`` with a summary of its result, or else with an error."""

    state: str
    ended_us: int
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    why: dict[str, Any] | None = None
    attempts: int | None = None
    """How many there were since it was last asked for."""


class JobFilesDamagedError(CoveyError):
    """A kept job's file cannot be read."""

    default_code = "job-damaged"


class KeptJobs:
    """The folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._trying_again = Lock()
        """Held while a job that is over is not over any more, or is removed."""

    def keep(self, spec: JobSpec, now_us: int) -> Promise:
        """Promise to carry a job. The same one again changes nothing, unless it ended without a
        result: then it is to be carried anew.

        Raises ``Refused`` when another job has that id, and ``NotWrittenError``.
        """
        folder = self._folder(spec.job_id)
        if (folder / "job.json").exists():
            there = self.get(spec.job_id)
            if not there.is_of(spec):
                raise other_specification()
            return self._try_again(there, now_us)
        job = KeptJob(replace(spec, input=b""), _digest(spec.input), now_us)
        try:
            make_folder_durably(self._root)
            make_folder_durably(folder)
            write_durably(folder / "input", spec.input)
            write_durably(folder / "job.json", msgspec.json.encode(job))
        except CoveyError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._note(spec.job_id, life_step(now_us, SUBMITTED))
        return Promise.NEW

    def _try_again(self, job: KeptJob, now_us: int) -> Promise:
        job_id = job.spec.job_id
        with self._trying_again:
            end = self.ended(job_id)
            if end is None or end.result is not None:
                return Promise.KNOWN
            # Until its end is gone the job is over; then it must have its new time already.
            again = msgspec.structs.replace(job, tried_us=now_us)
            write_durably(self._folder(job_id) / "job.json", msgspec.json.encode(again))
            self._note(job_id, life_step(now_us, AGAIN))
            remove_durably(self._folder(job_id) / "end.json")
        return Promise.AGAIN

    def has_or_will(self, spec: JobSpec) -> bool:
        """Whether the result of this job is here or is promised, whatever time it was given.

        Raises ``Refused`` when another job has that id.
        """
        if not (self._folder(spec.job_id) / "job.json").exists():
            return False
        there = self.get(spec.job_id)
        if not there.is_of(replace(spec, budget_ms=there.spec.budget_ms)):
            raise other_specification()
        end = self.ended(spec.job_id)
        return end is None or end.result is not None

    def get(self, job_id: bytes) -> KeptJob:
        """Return a job; raises ``UnknownError``."""
        return self._read(job_id, "job.json", KeptJob)

    def input(self, job_id: bytes) -> bytes:
        """Return a job's input as it was kept."""
        content = (self._folder(job_id) / "input").read_bytes()
        if _digest(content) != self.get(job_id).input_digest:
            raise JobFilesDamagedError(
                f"the input of job {job_id.hex()} was changed on the disk", hint="submit it again"
            )
        return content

    def take(self, job_id: bytes, output: bytes, taken: dict[str, Any]) -> None:
        """Keep the output that is about to be accepted, and what is known about it."""
        folder = self._folder(job_id)
        write_durably(folder / "output", output)
        write_durably(folder / "taken.json", msgspec.json.encode(taken))

    def taken(self, job_id: bytes) -> dict[str, Any] | None:
        """Return what is known about the output that was kept last, if there is one."""
        if not (self._folder(job_id) / "taken.json").exists():
            return None
        return self._read(job_id, "taken.json", dict[str, Any])

    def output(self, job_id: bytes) -> bytes:
        """Return the output of a job that is done."""
        return (self._folder(job_id) / "output").read_bytes()

    def end(self, job_id: bytes, end: JobEnd) -> None:
        """Say how a job ended; the first word stands."""
        path = self._folder(job_id) / "end.json"
        if not path.exists():
            write_durably(path, msgspec.json.encode(end))
            told = f"{end.state}: {end.error['message']}" if end.error else end.state
            self._note(job_id, life_step(end.ended_us, ENDED, told))

    def ended(self, job_id: bytes) -> JobEnd | None:
        """Return how a job ended, if it did."""
        if not (self._folder(job_id) / "end.json").exists():
            return None
        return self._read(job_id, "end.json", JobEnd)

    def ids(self) -> list[bytes]:
        """Return the jobs that exist, in no order."""
        names = (path.parent.name for path in self._root.glob("*/job.json"))
        return [bytes.fromhex(name) for name in names if _NAME.fullmatch(name)]

    def unfinished(self) -> list[KeptJob]:
        """Return the jobs that are not over, the oldest first; half-kept ones are cleared away, and
        damaged ones set aside.
        """
        for folder in self._root.glob("*"):
            if _NAME.fullmatch(folder.name) and not (folder / "job.json").exists():
                shutil.rmtree(folder, ignore_errors=True)  # its client never heard of it
        jobs = (self._intact(job_id, self._unless_over) for job_id in self.ids())
        return sorted((job for job in jobs if job), key=lambda job: job.submitted_us)

    def jobs(self) -> list[KeptJob]:
        """Return every job, in no order; damaged ones are set aside."""
        jobs = (self._intact(job_id, self.get) for job_id in self.ids())
        return [job for job in jobs if job]

    def add_to_log(self, job_id: bytes, steps: list[dict[str, Any]]) -> None:
        """Append what happened to a job; of a long log the offers are left out."""
        with (self._folder(job_id) / "log.jsonl").open("ab") as file:
            if file.tell() > MAX_OFFERS_LOG_BYTES:
                steps = [step for step in steps if step["what"] not in (*OF_OFFERS, WAITS)]
            # The line's end comes first: one that a crash cut off spoils no other
            file.writelines(b"\n" + msgspec.json.encode(step) for step in steps)

    def _note(self, job_id: bytes, step: dict[str, Any]) -> None:
        """Write down what has happened already, whether or not the log can be written."""
        try:
            self.add_to_log(job_id, [step])
        except OSError as error:
            log.warning("job's log not written", extra={"reason": error.strerror})

    def log(self, job_id: bytes) -> list[dict[str, Any]]:
        """Return what happened to a job, as far as it was written down."""
        path = self._folder(job_id) / "log.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return [step for line in lines if (step := _step(line)) is not None]

    def forget_old(self, now_us: int) -> int:
        """Remove ended jobs past their time, and the oldest past the limits; return how many."""
        kept_bytes = kept = removed = 0
        for ended_us, job_id, size in sorted(self._ended(), reverse=True):
            kept, kept_bytes = kept + 1, kept_bytes + size
            is_old = ended_us + KEEP_ENDED_S * 1_000_000 < now_us
            if is_old or kept > MAX_ENDED_JOBS or kept_bytes > MAX_OUTPUT_BYTES:
                removed += self._forget(job_id)
        return removed

    def _forget(self, job_id: bytes) -> bool:
        """Remove a job that is over; tell whether it still was."""
        with self._trying_again:
            is_over = (self._folder(job_id) / "end.json").exists()
            if is_over:
                shutil.rmtree(self._folder(job_id), ignore_errors=True)
            return is_over

    def _ended(self) -> Iterator[tuple[int, bytes, int]]:
        for job_id in self.ids():
            end = self._intact(job_id, self.ended)
            if end is not None:
                output = self._folder(job_id) / "output"
                size = output.stat().st_size if output.exists() else 0
                yield end.ended_us, job_id, size

    def _unless_over(self, job_id: bytes) -> KeptJob | None:
        """Return a job that is not over; everything that going on with it needs can be read."""
        job, _ = self.get(job_id), self.taken(job_id)
        return job if self.ended(job_id) is None else None

    def _intact(self, job_id: bytes, read: Callable[[bytes], T | None]) -> T | None:
        """Return what ``read`` says of a job. One with a damaged file is moved to where nobody
        looks for jobs: it is met and told of once, and what is left of it stays for a person.
        """
        try:
            return read(job_id)
        except JobFilesDamagedError as error:
            self._set_aside(job_id, error.message)
            return None

    def _set_aside(self, job_id: bytes, reason: str) -> None:
        folder, where = self._folder(job_id), self._root / f"{job_id.hex()}.damaged"
        try:
            if folder.exists():
                shutil.rmtree(where, ignore_errors=True)  # of the same job, before
                folder.rename(where)
            log.warning("job set aside", extra={"reason": reason, "where": str(where)})
        except OSError as error:
            log.warning("job left out", extra={"reason": f"{reason}; {error.strerror}"})

    def _folder(self, job_id: bytes) -> Path:
        return self._root / job_id.hex()

    def _read(self, job_id: bytes, name: str, kind: Any) -> Any:
        path = self._folder(job_id) / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError as error:
            raise UnknownError(
                f"there is no job {job_id.hex()} here",
                code="unknown-job",
                hint="`covey job list` shows those that were submitted at this node",
            ) from error
        except msgspec.MsgspecError as error:
            raise JobFilesDamagedError(
                f"{path} is damaged", hint="remove its folder, and submit the job again"
            ) from error


def not_kept(job_id: bytes) -> UnknownError:
    """Return the error for a job that this node knows and has not kept."""
    return UnknownError(
        f"job {job_id.hex()} is one of `covey run`, which is not kept",
        code="not-kept",
        hint="its result went to who waited for it; `covey job submit` keeps a job",
    )


def _step(line: bytes) -> dict[str, Any] | None:
    """Return a line of a log; None for one that a crash cut off."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
