"""What is stated of a benchmark: by its worker, the figures that it found; by its submitter, those
that came, checked, with the hardware that the worker advertises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from node.benchmarks import is_benchmark
from node.benchmarks.statement import RESULT, Statement
from node.job import JobResult, JobSpec
from node.runner import bench_parameters
from protocols.advert import Advert
from protocols.benchmark import decode_figures
from protocols.errors import JobFailed
from protocols.keys import PeerId

if TYPE_CHECKING:
    from node.benchmarks.runners import BenchOutcome
    from node.ledger import Attempt, JobLedger, Stopwatch

PRECISION: Final = "precision"
"""What workers call the precision that a job ran in, where it was for them to choose."""
MACHINE: Final = ("cpu_model", "cores", "memory_gb", "accelerators")
"""What is told of a machine beside figures: the rest of an advert are figures itself."""


def measured(
    attempt: Attempt, run: BenchOutcome, execution: dict[str, Any], worker: PeerId
) -> Statement:
    """Return what a worker states of a benchmark that it carried out."""
    return Statement(
        kind=attempt.terms.kind,
        model=attempt.terms.model,
        precision=attempt.precision,
        worker=worker,
        submitter=attempt.submitter,
        job_id=attempt.terms.job_id,
        parameters=run.parameters,
        figures=run.figures,
        execution=execution,
    )


class Adverts(Protocol):
    """The placement."""

    def advert_of(self, peer: PeerId) -> Advert | None:
        """What a worker says of itself, if it is known and current."""
        ...


class Stating:
    """States the benchmarks of one submitter."""

    def __init__(self, own: PeerId, adverts: Adverts, ledger: JobLedger) -> None:
        self._own = own
        self._adverts = adverts
        self._ledger = ledger

    async def of(self, spec: JobSpec, result: JobResult) -> Statement | None:
        """Return what to state of a job's result; None for a job that is no benchmark. One that
        holds no figures is reported, and raises ``JobFailed``: it is not to be accepted.
        """
        try:
            return statement_of(spec, result, self._own, self._adverts.advert_of)
        except JobFailed as error:
            await self._ledger.report(error)
            raise

    async def record(
        self, stated: Statement | None, taken: JobResult, watch: Stopwatch
    ) -> JobResult:
        """Record openly what a benchmark found, once its result was accepted."""
        if stated is None:
            return taken
        known = [taken.accepted_cid] if taken.accepted_cid else []
        follows = [*known, taken.record_cid]
        cid = await self._ledger.benchmark(RESULT, stated, taken.output_cid, follows, watch)
        return replace(taken, benchmark_cid=cid)


def statement_of(
    spec: JobSpec,
    result: JobResult,
    submitter: PeerId,
    advert_of: Callable[[PeerId], Advert | None],
) -> Statement | None:
    """Return what to state of a job's result; None for a job that is no benchmark.

    The answer was judged: it holds figures. Raises ``BadInputError`` when the job's own input held
    no parameters.
    """
    if not is_benchmark(spec.kind):
        return None
    asked = bench_parameters.decode(spec.input, bench_parameters.schema_of(spec.kind))
    advert = advert_of(result.worker)
    return Statement(
        kind=spec.kind,
        model=spec.model,
        precision=str(result.execution.get(PRECISION, spec.precision)),
        worker=result.worker,
        submitter=submitter,
        job_id=spec.job_id,
        parameters=bench_parameters.told(asked),
        figures=decode_figures(result.output),
        execution=result.execution,
        machine=_machine(advert),
        software=advert.software if advert else "",
        hardware=advert.hardware if advert else None,
    )


def _machine(advert: Advert | None) -> dict[str, Any]:
    known = advert.capabilities if advert else {}
    return {name: known[name] for name in MACHINE if name in known}
