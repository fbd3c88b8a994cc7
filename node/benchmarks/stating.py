"""What a submitter states of a benchmark that a worker did for it: the figures as they came,
checked, with the hardware that the worker advertises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from node.benchmarks import is_benchmark
from node.benchmarks.statement import Statement
from node.job import JobResult, JobSpec
from node.runner import bench_parameters
from protocols.advert import Advert
from protocols.benchmark import decode_figures
from protocols.errors import JobFailed, RemoteProtocolError
from protocols.keys import PeerId

MACHINE: Final = ("cpu_model", "cores", "memory_gb", "accelerators")
"""What is told of a machine beside figures: the rest of an advert are figures itself."""


def statement_of(
    spec: JobSpec,
    result: JobResult,
    submitter: PeerId,
    advert_of: Callable[[PeerId], Advert | None],
) -> Statement | None:
    """Return what to state of a job's result; None for a job that is no benchmark.

    Raises ``JobFailed`` with code ``bad-output`` when the worker's answer holds no figures, and
    ``BadInputError`` when the job's own input held no parameters.
    """
    if not is_benchmark(spec.kind):
        return None
    asked = bench_parameters.decode(spec.input, bench_parameters.schema_of(spec.kind))
    advert = advert_of(result.worker)
    try:
        figures = decode_figures(result.output)
    except RemoteProtocolError as error:
        raise JobFailed(
            f"{result.worker} answered a benchmark with something else: {error.message}",
            code="bad-output",
            worker=result.worker,
        ) from error
    return Statement(
        kind=spec.kind,
        model=spec.model,
        precision=spec.precision,
        worker=result.worker,
        submitter=submitter,
        job_id=spec.job_id,
        parameters=msgspec.to_builtins(asked),
        figures=figures,
        execution=result.execution,
        machine=_machine(advert),
        software=advert.software if advert else "",
        hardware=advert.hardware if advert else None,
    )


def _machine(advert: Advert | None) -> dict[str, Any]:
    known = advert.capabilities if advert else {}
    return {name: known[name] for name in MACHINE if name in known}
