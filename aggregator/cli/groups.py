"""``covey-aggregator groups list|show``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import read
from peer.cli import emit, json_option, printable, table

COLUMNS = {
    "id": "GROUP",
    "title": "TITLE",
    "count": "REPORTS",
    "peers": "PEERS",
    "status": "STATUS",
    "issue": "ISSUE",
}


@click.group()
def groups() -> None:
    """Show groups: all reports of one fault together."""


@groups.command("list")
@json_option
def list_groups(as_json: bool) -> None:
    """List the groups, the one seen last first.

    \b
    Example:  covey-aggregator groups list
    """
    emit(read("/groups"), as_json, _render_list)


def _render_list(rows: list[dict[str, Any]]) -> str:
    counted = [{**row, "peers": len(row["peers"])} for row in rows]
    return table(counted, COLUMNS, empty="no report has arrived")


@groups.command("show")
@click.argument("group_id", metavar="GROUP")
@json_option
def show_group(group_id: str, as_json: bool) -> None:
    """Show a group's variants and its latest reports.

    \b
    Example:  covey-aggregator groups show 3f0c1d9a77be
    """
    emit(read(f"/groups/{group_id}"), as_json, _render_group)


VARIANT_COLUMNS = {"fingerprint": "VARIANT", "count": "REPORTS", "title": "TITLE"}
REPORT_COLUMNS = {"at": "AT", "peer": "PEER", "message": "MESSAGE", "cid": "RECORD"}


def _render_group(group: dict[str, Any]) -> str:
    variants = [{**each, "fingerprint": each["fingerprint"][:12]} for each in group["variants"]]
    latest = [{**each, "message": _first_line(each["message"])} for each in group["latest"]]
    issue = f"issue {group['issue']} ({group['issue_where']})" if group["issue"] else "no issue"
    return "\n".join(
        (
            printable(f"{group['id']}  {group['title']}"),
            f"{group['status']}, {issue}, reports: {group['count']}, peers: {len(group['peers'])}",
            f"at {printable(group['culprit'])}",
            f"first {group['first_seen']}, last {group['last_seen']}",
            "",
            table(variants, VARIANT_COLUMNS, empty=""),
            "",
            table(latest, REPORT_COLUMNS, empty=""),
        )
    )


def _first_line(message: str) -> str:
    return (message.splitlines() or [""])[0][:100]
