"""``covey job show``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import job_id_argument
from peer.cli import emit, json_option, listing


@click.command()
@job_id_argument
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show what a job asks for, where it stands, and how it ended.

    \b
    Example:  covey job show 0123456789abcdef0123456789abcdef
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get(f"/jobs/{job_id}"), as_json, _render)


def _render(job: dict[str, Any]) -> str:
    return listing({key: value for key, value in job.items() if value not in (None, {}, [])})
