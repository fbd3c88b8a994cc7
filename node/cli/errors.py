"""``covey errors list|show``."""

from __future__ import annotations

import json
from typing import Any

import click

from node.cli.arguments import LIMIT
from node.cli.damage import note_damage
from peer.cli import CidName, emit, json_option, table

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


@errors.command()
@click.argument("cid", type=CidName())
@json_option
def show(cid: str, as_json: bool) -> None:
    """Show one error report whole, by the CID of its record.

    \b
    Example:  covey errors show bafyrei...
    """
    from node.cli.reading import reader

    with reader() as read:
        report = read(f"/errors/{cid}")
    emit(report, as_json, lambda report: json.dumps(report, indent=2))
    note_damage([report])


def _render(rows: list[dict[str, Any]]) -> str:
    marked = [{**row, "type": f"DAMAGED {row['type']}"} if row["damaged"] else row for row in rows]
    return table(marked, COLUMNS, empty="no errors were reported")
