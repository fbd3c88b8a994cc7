"""``covey-aggregator redact``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import act
from peer.cli import emit, json_option, printable
from peer.excerpt_commands import (
    cids_argument,
    confirm_redaction,
    reason_option,
    render_redactions,
    yes_option,
)


@click.command()
@cids_argument
@reason_option
@yes_option
@json_option
def redact(cids: tuple[str, ...], reason: str, yes: bool, as_json: bool) -> None:
    """Erase the content of any records, here and at whoever else holds it.

    A signed tombstone takes its place and stays, with the reason and this aggregator's name. The
    record's digest and its bundle's signature stay too, so everything else still verifies. There is
    no way back. An issue that was filed from a report stays as it is, and is named. Many are erased
    at once in about the time of one: name them together.

    \b
    Example:  covey-aggregator redact bafyrei... --reason "names a customer" --yes
    """
    confirm_redaction(cids, yes)
    answer = act("/redact", {"records": cids, "reason": reason})
    emit(answer, as_json, _render)


def _render(answers: list[dict[str, Any]]) -> str:
    lines = [
        f"issue {issue['number']} at {issue['tracker']} was filed from it and is not changed:"
        f" edit it by hand ({issue['where']})"
        for answer in answers
        for issue in answer["issues"]
    ]
    return "\n".join([render_redactions(answers), *map(printable, dict.fromkeys(lines))])
