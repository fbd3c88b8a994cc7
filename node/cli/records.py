"""``covey records list|show``."""

from __future__ import annotations

import json

import click

from node.cli.arguments import LIMIT
from peer.cli import emit, json_option, table

COLUMNS = {"at": "TIME (UTC)", "kind": "KIND", "status": "STATUS", "peer": "PEER", "cid": "CID"}


@click.group()
def records() -> None:
    """Read the records that this node holds."""


@records.command("list")
@click.option("--kind", help="Only records of this kind, such as job.run.")
@click.option(
    "--limit", type=LIMIT, default=50, show_default=True, help="How many, the newest first."
)
@json_option
def list_records(kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest records.

    \b
    Example:  covey records list --kind job.accepted
    """
    from node.cli.reading import reader

    with reader() as read:
        emit(
            read("/records", kind=kind or "", limit=limit),
            as_json,
            lambda rows: table(rows, COLUMNS, empty="no records"),
        )


@records.command()
@click.argument("cid")
@json_option
def show(cid: str, as_json: bool) -> None:
    """Show one record whole.

    \b
    Example:  covey records show bafyrei...
    """
    from node.cli.reading import reader

    with reader() as read:
        emit(read(f"/records/{cid}"), as_json, lambda row: json.dumps(row, indent=2))
