"""``covey-aggregator issues list``."""

from __future__ import annotations

import click

from aggregator.cli.access import read
from peer.cli import emit, json_option, table

COLUMNS = {
    "number": "ISSUE",
    "status": "STATUS",
    "count": "REPORTS",
    "title": "TITLE",
    "group": "GROUP",
    "where": "AT",
}


@click.group()
def issues() -> None:
    """Show the issues that were filed for groups."""


@issues.command("list")
@json_option
def list_issues(as_json: bool) -> None:
    """List the issues of this mesh, whichever aggregator filed them.

    \b
    Example:  covey-aggregator issues list
    """
    emit(read("/issues"), as_json, lambda rows: table(rows, COLUMNS, empty="no issue was filed"))
