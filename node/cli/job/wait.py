"""``covey job wait``."""

from __future__ import annotations

import click

from node.cli.arguments import job_id_argument
from node.cli.away import tell_away
from node.cli.run import showing_progress
from node.cli.verdict import tell_verdict
from peer.cli import emit, json_option


@click.command()
@job_id_argument
@json_option
def wait(job_id: str, as_json: bool) -> None:
    """Wait until a job is over, and say how it ended; exit status 1 if it failed.

    If it was to be verified, the exit status is as `covey run --verify` says.

    \b
    Example:  covey job wait 0123456789abcdef0123456789abcdef
    """
    from node import requests
    from node.cli.connection import connect

    with connect() as control:
        items = control.get(f"/jobs/{job_id}")["items"]
        with showing_progress(items) as on_progress:
            outcome = requests.result(control, job_id, on_progress, tell_away)
    emit(outcome.summary, as_json, lambda told: f"{told['items']} items by {told['worker']}")
    tell_verdict(outcome.summary, as_json=as_json)
