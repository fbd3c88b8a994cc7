"""How commands run one benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peer.control import ControlClient


def run_one(control: ControlClient, planned: dict[str, Any]) -> dict[str, Any]:
    """Run a benchmark as a job of its worker alone, and return it as its record states it; raises
    what the job fails with.
    """
    from node import requests
    from node.runner import bench_parameters

    schema = bench_parameters.schema_of(planned["kind"])
    job = requests.JobRequest(
        kind=planned["kind"],
        model=planned["model"],
        input=bench_parameters.encode_values(planned["parameters"], schema),
        items=1,
        precision=planned["precision"],
        peer=planned["peer"],
        timeout_s=planned["timeout_s"],
    )
    outcome = requests.run(control, job, lambda _progress: None)
    return control.get(f"/bench/{outcome.summary['benchmark_cid']}")
