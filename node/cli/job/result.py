"""``covey job result``."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.arguments import job_id_argument
from node.cli.away import tell_away
from node.cli.run import output_option, showing_progress, write_outcome
from peer.cli import json_option


@click.command()
@job_id_argument
@output_option
@json_option
def result(job_id: str, target: str | None, as_json: bool) -> None:
    """Print or write the result of a job, waiting for it if need be; exit status 1 if it failed.

    If it was to be verified, the exit status is as `covey run --verify` says.

    \b
    Example:  covey job result 0123456789abcdef0123456789abcdef --output vectors.npy
    """
    from node import requests, results
    from node.cli.connection import connect
    from node.runner.kinds import kind_named

    with connect() as control:
        job = control.get(f"/jobs/{job_id}")
        if target is not None:
            results.check_target(Path(target), kind_named(job["kind"]), job["kind"])
        with showing_progress(job["items"]) as on_progress:
            outcome = requests.result(control, job_id, on_progress, tell_away)
    write_outcome(outcome, kind_named(job["kind"]), target, as_json)
