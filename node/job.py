"""A job as a client of this node knows it: what it asks for, how far it is, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.benchmarks import is_benchmark
from node.errors import InputError, NoWorkerError
from node.manifest import ModelDamagedError, reinstall_hint
from node.needs import AUTO, JobNeeds, why_without
from node.placement import Candidate, explain
from node.requirements import NOTHING, Requirements
from node.runner.kinds import kind_named
from node.verdict import Verification
from protocols.cid import CID
from protocols.errors import CoveyError, JobFailed, Refused
from protocols.job import JOB_ID_BYTES, Refuse
from protocols.job_checks import CODE
from protocols.job_history import OFFERED
from protocols.keys import PeerId
from protocols.limits import (
    MAX_ATTEMPTS,
    MAX_BUDGET_MS,
    MAX_CODE_CHARS,
    MAX_ITEMS,
    MAX_JOB_INPUT_BYTES,
    MAX_NAME_CHARS,
    MAX_VERIFICATIONS,
)
from protocols.session import JobState
from protocols.submitter_job import SubmitterJob

SHOWN_MODELS: Final = 12  # in a hint


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a client wants: ``job_id`` is the idempotency key, ``input`` is in the kind's
    encoding, ``peer`` names the only worker.
    """

    job_id: bytes
    kind: str
    model: str
    input: bytes
    items: int
    budget_ms: int
    precision: str = AUTO
    peer: PeerId | None = None
    requirements: Requirements = NOTHING
    verify: int = 0
    """How many other peers run it again, to compare."""
    excluded: frozenset[PeerId] = frozenset()
    """Who must not run it."""
    model_cid: bytes = b""
    """The only model of that name that will do, if given."""
    tokens: int = 0
    """How many it may write, of kinds that write tokens."""

    @property
    def needs(self) -> JobNeeds:
        """What placement looks for."""
        return JobNeeds(
            self.kind,
            self.model,
            self.precision,
            self.peer,
            self.requirements,
            self.excluded,
            self.model_cid,
        )


@dataclass(frozen=True, slots=True)
class JobResult:
    """The accepted result, and the records that tell how it came to be."""

    job_id: bytes
    worker: PeerId
    output: bytes
    input_cid: CID
    output_cid: CID
    record_cid: CID
    """The worker's record of the run."""
    submitted_cid: CID
    accepted_cid: CID | None
    """None as long as it is not accepted yet."""
    fence: int
    attempts: int
    benchmark_cid: CID | None = field(default=None, kw_only=True)
    """Our own record of what a benchmark found."""
    timings: dict[str, float]
    """In milliseconds: the worker's own, and ``total_ms`` as seen from here."""
    execution: dict[str, Any]
    verification: Verification | None = None
    """What others made of it, where that was asked for."""


def summary_of(spec: JobSpec, result: JobResult) -> dict[str, Any]:
    """Return what clients are told about a result besides its output."""
    return {
        "job_id": result.job_id.hex(),
        "kind": spec.kind,
        "model": spec.model,
        "items": spec.items,
        "worker": result.worker,
        "attempts": result.attempts,
        "fence": result.fence,
        "input_cid": str(result.input_cid),
        "output_cid": str(result.output_cid),
        "record_cid": str(result.record_cid),
        "submitted_cid": str(result.submitted_cid),
        "accepted_cid": str(result.accepted_cid) if result.accepted_cid else None,
        "benchmark_cid": str(result.benchmark_cid) if result.benchmark_cid else None,
        "timings": result.timings,
        "execution": result.execution,
        "verification": result.verification.told() if result.verification else None,
    }


def result_of(summary: dict[str, Any], output: bytes) -> JobResult:
    """Return an accepted result from its summary, as it was before others verified it."""
    return JobResult(
        job_id=bytes.fromhex(summary["job_id"]),
        worker=summary["worker"],
        output=output,
        input_cid=CID.parse(summary["input_cid"]),
        output_cid=CID.parse(summary["output_cid"]),
        record_cid=CID.parse(summary["record_cid"]),
        submitted_cid=CID.parse(summary["submitted_cid"]),
        accepted_cid=CID.parse(summary["accepted_cid"]),
        fence=summary["fence"],
        attempts=summary["attempts"],
        timings=summary["timings"],
        execution=summary["execution"],
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    state: JobState
    worker: PeerId | None
    items_done: int
    items_total: int
    attempt: int


def check(spec: JobSpec) -> None:
    """Raise ``InputError`` for a job that can't be."""
    if len(spec.job_id) != JOB_ID_BYTES:
        raise InputError(f"a job id has {JOB_ID_BYTES} bytes, not {len(spec.job_id)}")
    for count, what in ((spec.items, "items"), (spec.tokens, "tokens to write")):
        if not 0 <= count <= MAX_ITEMS:
            raise InputError(f"a job has 0 to {MAX_ITEMS} {what}, not {count}")
    for word in (spec.kind.replace(".", "-"), spec.precision):
        if len(word) > MAX_CODE_CHARS or not CODE.fullmatch(word):
            raise InputError(f"{word[:40]!r} is no kind and no precision")
    if not 0 < len(spec.model) <= MAX_NAME_CHARS:
        raise InputError(f"a model's name has 1 to {MAX_NAME_CHARS} characters")
    if len(spec.input) > MAX_JOB_INPUT_BYTES:
        raise InputError(
            f"the input has {len(spec.input)} bytes, a job takes {MAX_JOB_INPUT_BYTES}",
            code="too-big",
            hint="split it into several jobs",
        )
    if not 0 < spec.budget_ms <= MAX_BUDGET_MS:
        raise InputError(f"a job's time lies between 1 ms and {MAX_BUDGET_MS} ms")
    _check_verify(spec)
    spec.requirements.check()


def _check_verify(spec: JobSpec) -> None:
    if not 0 <= spec.verify <= MAX_VERIFICATIONS:
        raise InputError(f"a job is verified by 0 to {MAX_VERIFICATIONS} peers, not {spec.verify}")
    if spec.verify and is_benchmark(spec.kind):
        raise InputError(
            "nobody else can verify a benchmark: other machines have other figures",
            hint="repeat it at its worker with `covey bench rerun`",
        )
    if spec.verify:
        kind_named(spec.kind)  # how its outputs are compared must be known here


def failure_of(
    spec: JobSpec, machine: SubmitterJob, considered: list[Candidate], lost_before: int = 0
) -> CoveyError:
    """Return what a job that has no result ends with; ``lost_before`` of its losses are of earlier
    submissions. ``may_go_on`` in an error's details tells whether one more submission may help.
    """
    details: dict[str, Any] = {"job_id": spec.job_id.hex(), "attempts": machine.attempts}
    if machine.state is JobState.FAILED:
        details["may_go_on"] = _may_go_on(machine)
    if machine.state is JobState.CANCELLED:
        return JobFailed("the job was cancelled", code="cancelled", **details)
    if machine.state is JobState.EXPIRED and machine.attempts:
        return JobFailed("the job's time ran out", code="expired", **details)
    if machine.is_out_of_retries:
        return _out_of_retries(machine, details)
    if (failed := machine.failed) is not None:
        report = str(CID(failed.report_cid)) if failed.report_cid else None
        worker = machine.worker or machine.losses[-1][0]  # lost, if it was for the third time
        return JobFailed(
            f"the job failed at {worker}: {failed.reason}",
            code=failed.code,
            hint=_hint(spec, failed.code),
            report=report,
            worker=worker,
            **details,
        )
    if len(machine.losses) > lost_before:
        return lost(machine.losses, **details)
    asked = {step.peer for step in machine.history.steps if step.what == OFFERED}
    told = explain(spec.needs, considered, machine.refusals, asked)
    if machine.state is JobState.EXPIRED:
        time_s = spec.budget_ms / 1_000
        return NoWorkerError(
            f"no worker took the job before its time of {time_s:g} s ran out: {told}",
            hint="give it more time: --timeout",
        )
    return _refused(spec, told, machine.refusals)


def lost(losses: Sequence[tuple[PeerId, str]], **details: Any) -> NoWorkerError:
    """Return the error for a job whose attempts were all lost, each as (worker, why)."""
    told = "; ".join(f"{peer}: {reason}" for peer, reason in losses)
    return NoWorkerError(
        f"the job was lost with every worker that took it: {told}", code="worker-lost", **details
    )


def _may_go_on(machine: SubmitterJob) -> bool:
    """Whether workers are to blame, and not as many as may be."""
    is_job_fault = machine.failed is not None and not machine.failed.is_worker_fault
    return machine.attempts - machine.interrupted < MAX_ATTEMPTS and not is_job_fault


def _out_of_retries(machine: SubmitterJob, details: dict[str, Any]) -> JobFailed:
    worker, reason = machine.losses[-1]
    return JobFailed(
        f"the job was not tried again after {worker}: {reason}",
        code="retry-budget",
        hint="too many jobs fail at their workers: `covey errors list` there says why",
        worker=worker,
        **details,
    )


def _hint(spec: JobSpec, code: str) -> str | None:
    """What a person can do about a worker's failure, where it is known."""
    if code == ModelDamagedError.default_code:
        return f"on that machine, {reinstall_hint(spec.model)}"
    return None


def nobody(
    spec: JobSpec, considered: list[Candidate], models: Mapping[str, Sequence[str]]
) -> CoveyError:
    """Return the error for a job that nobody could be asked for; ``models`` are those that workers
    offer, with the kinds of each.
    """
    without = why_without(spec.model)
    if spec.peer is None and considered and all(each.reason == without for each in considered):
        there = [f"{name} ({', '.join(kinds)})" for name, kinds in sorted(models.items())]
        more = f" and {len(there) - SHOWN_MODELS} more" if len(there) > SHOWN_MODELS else ""
        return NoWorkerError(
            f"no worker offers the model {spec.model}",
            hint=f"models there are: {', '.join(there[:SHOWN_MODELS])}{more}"
            if there
            else "no worker offers any: `covey models add` at one",
        )
    return _refused(spec, explain(spec.needs, considered), {})


def _refused(spec: JobSpec, told: str, refusals: dict[str, Refuse]) -> CoveyError:
    if spec.peer is not None and (refuse := refusals.get(spec.peer)):
        return Refused(
            f"the named worker refused: {told}",
            code=refuse.code,
            retry_after_ms=refuse.retry_after_ms or None,
            peer=spec.peer,
        )
    return NoWorkerError(
        f"no worker took the job: {told}",
        hint="covey peers shows who is there and what they offer",
    )
