"""``covey-aggregator issues list|sync``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import act, read
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
    """Show the issues that were filed for groups, or read back what people did to them."""


@issues.command("list")
@json_option
def list_issues(as_json: bool) -> None:
    """List the issues of this mesh, whichever aggregator filed them.

    \b
    Example:  covey-aggregator issues list
    """
    emit(read("/issues"), as_json, lambda rows: table(rows, COLUMNS, empty="no issue was filed"))


@issues.command("sync")
@json_option
def sync_issues(as_json: bool) -> None:
    """Read back now which issues people closed or reopened; else it happens every five minutes.

    One closed as completed is reopened if a newer release has the fault again; one closed as not
    planned stays closed for good.

    \b
    Example:  covey-aggregator issues sync
    """
    emit(act("/issues/sync"), as_json, _render_sync)


DECISION_COLUMNS = {"issue": "ISSUE", "action": "DECISION", "group": "GROUP"}


def _render_sync(answer: dict[str, Any]) -> str:
    rows = answer["decisions"]
    return table(rows, DECISION_COLUMNS, empty="nobody closed or reopened an issue since")
