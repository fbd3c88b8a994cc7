"""``covey-aggregator check``."""

from __future__ import annotations

import sys
from typing import Any

import click

from aggregator.cli.access import read
from peer.cli import counted, emit, json_option, printable
from peer.walked_line import walked_line


@click.command()
@click.option(
    "--accept-loss",
    is_flag=True,
    help="State that what is gone of this aggregator's own records is lost, though one that is away"
    " may have it; the aggregator must be running.",
)
@json_option
def check(accept_loss: bool, as_json: bool) -> None:
    """Verify everything on the disk, and say what is wrong and who may still have it.

    Walks the journal: every digest, signature and chain, holes, missing parents, and whether the
    index accounts for all of it. What is damaged is asked for. Where nobody is left who may have
    records of this aggregator's own, --accept-loss gives them up: it tells once what is lost, and
    no aggregator looks for it any more. Exit status 1 means that something is wrong, or was given
    up just now.

    \b
    Example:  covey-aggregator check
              covey-aggregator check --accept-loss
    """
    answer = read("/check", **({"accept_loss": "true"} if accept_loss else {}))
    emit(answer, as_json, _render)
    if not answer["ok"]:
        sys.exit(1)


def _render(answer: dict[str, Any]) -> str:
    walked = walked_line(answer)
    if answer["lost_records"]:
        walked += (
            f"; {counted(answer['lost_records'], 'record')} more are lost, as their authors say"
        )
    lines = [f"{each['code']}: {each['message']}{_source(each)}" for each in answer["findings"]]
    if any(each["fetch_from"] for each in answer["findings"]):
        lines.append("a running aggregator asks whoever has it for what is gone: check again")
    return "\n".join(map(printable, (walked, *(lines or ["nothing is wrong"]))))


def _source(finding: dict[str, Any]) -> str:
    holders: list[str] = finding["fetch_from"]
    return f"; may be fetched from {', '.join(holders)}" if holders else ""
