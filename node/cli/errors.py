"""``covey errors list``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import LIMIT
from node.cli.damage import note_damage
from peer.cli import emit, json_option, table

COLUMNS = {
    "at": "TIME (UTC)",
    "type": "TYPE",
    "message": "MESSAGE",
    "fingerprint": "FINGERPRINT",
    "cid": "CID",
}


@click.group()
def errors() -> None:
    """Read the errors that this node reported."""


@errors.command("list")
@click.option(
    "--limit", type=LIMIT, default=50, show_default=True, help="How many, the newest first."
)
@json_option
def list_errors(limit: int, as_json: bool) -> None:
    """List the newest error reports.

    \b
    Example:  covey errors list
    """
    from node.cli.reading import reader

    with reader() as read:
        rows = read("/errors", limit=limit)
    emit(rows, as_json, _render)
    if not as_json:
        note_damage(rows)


def _render(rows: list[dict[str, Any]]) -> str:
    marked = [{**row, "type": f"DAMAGED {row['type']}"} if row["damaged"] else row for row in rows]
    return table(marked, COLUMNS, empty="no errors were reported")
