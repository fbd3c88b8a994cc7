"""``covey job list``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import LIMIT
from peer.cli import emit, json_option, screen_width, table

COLUMNS = {
    "job_id": "JOB",
    "state": "STATE",
    "kind": "KIND",
    "model": "MODEL",
    "done": "DONE",
    "attempts": "TRIES",
    "worker": "WORKER",
    "waits_for": "WAITS FOR",
}


@click.command("list")
@click.option(
    "--limit", type=LIMIT, default=100, show_default=True, help="How many, the newest first."
)
@json_option
def list_jobs(limit: int, as_json: bool) -> None:
    """List the jobs that were submitted at this node with `covey job submit`.

    \b
    Example:  covey job list --json
    """
    from node.cli.connection import connect

    with connect() as client:
        rows = client.get("/jobs", limit=limit)
    emit(rows, as_json, _render)


def _render(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "done": f"{row['items_done']}/{row['items']}"} for row in rows]
    return table(shown, COLUMNS, empty="no jobs: try `covey job submit`", width=screen_width())
