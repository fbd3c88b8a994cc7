"""``covey-aggregator redact``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import act
from peer.cli import CidName, emit, json_option, printable
from peer.excerpt_commands import confirm_redaction, reason_option, render_redaction, yes_option


@click.command()
@click.argument("cid", type=CidName())
@reason_option
@yes_option
@json_option
def redact(cid: str, reason: str, yes: bool, as_json: bool) -> None:
    """Erase the content of any record, here and at whoever else holds it.

    A signed tombstone takes its place and stays, with the reason and this aggregator's name. The
    record's digest and its bundle's signature stay too, so everything else still verifies. There is
    no way back. An issue that was filed from a report stays as it is, and is named.

    \b
    Example:  covey-aggregator redact bafyrei... --reason "names a customer" --yes
    """
    confirm_redaction(cid, yes)
    emit(act(f"/records/{cid}/redact", reason=reason), as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    lines = [
        f"issue {issue['number']} at {issue['tracker']} was filed from it and is not changed:"
        f" edit it by hand ({issue['where']})"
        for issue in answer["issues"]
    ]
    return "\n".join([render_redaction(answer), *map(printable, lines)])
