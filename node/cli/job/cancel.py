"""``covey job cancel``."""

from __future__ import annotations

import click

from node.cli.arguments import job_id_argument
from peer.cli import emit, json_option


@click.command()
@job_id_argument
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """End a job that is not over; does nothing to one that is.

    \b
    Example:  covey job cancel 0123456789abcdef0123456789abcdef
    """
    from node.cli.connection import connect

    with connect() as client:
        answer = client.post(f"/jobs/{job_id}/cancel")
    emit(answer, as_json, lambda answer: f"job {answer['job_id']} is {answer['state']}")
