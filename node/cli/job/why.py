"""``covey job why``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import job_id_argument
from peer.cli import emit, json_option, printable, table

COLUMNS = {"peer": "PEER", "speed": "SPEED", "basis": "FROM", "answer": "WHAT BECAME OF IT"}


@click.command()
@job_id_argument
@json_option
def why(job_id: str, as_json: bool) -> None:
    """Say why a job went where it went: who was considered, with which speed, and what each said.

    Knows every job of `covey job submit`, and the last 256 others of the running node.

    \b
    Example:  covey job why 0123456789abcdef0123456789abcdef
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get(f"/jobs/{job_id}/why"), as_json, _render)


def _render(told: dict[str, Any]) -> str:
    head = printable(
        f"{told['state']} after {told['attempts']} attempts; looked for {told['looked_for']}"
    )
    return f"{head}\n{table(told['candidates'], COLUMNS, empty='nobody was considered')}"
