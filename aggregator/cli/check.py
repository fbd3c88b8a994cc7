"""``covey-aggregator check``."""

from __future__ import annotations

import sys
from typing import Any

import click

from aggregator.cli.access import read
from peer.cli import counted, emit, json_option, printable


@click.command()
@json_option
def check(as_json: bool) -> None:
    """Verify everything on the disk, and say what is wrong and who may still have it.

    Walks the journal: every digest, signature and chain, holes, missing parents, and whether the
    index accounts for all of it. Exit status 1 means that something is wrong.

    \b
    Example:  covey-aggregator check
    """
    answer = read("/check")
    emit(answer, as_json, _render)
    if not answer["ok"]:
        sys.exit(1)


def _render(answer: dict[str, Any]) -> str:
    walked = (
        f"{counted(answer['records'], 'record')} in {counted(answer['bundles'], 'bundle')} of "
        f"{counted(answer['feeds'], 'feed')}, {counted(answer['journal_bytes'], 'journal byte')}"
    )
    if answer["damaged_bytes"]:
        walked += f", {answer['damaged_bytes']} of them damaged"
    if answer["healed_bytes"]:
        walked += (
            f"; of {answer['healed_bytes']} damaged bytes nothing is missed any more: they are"
            " given back, and told no more"
        )
    lines = [f"{each['code']}: {each['message']}{_source(each)}" for each in answer["findings"]]
    if lines and any(each["fetch_from"] for each in answer["findings"]):
        lines.append("a running aggregator asks whoever has it for what is gone: check again")
    return "\n".join(map(printable, (walked, *(lines or ["nothing is wrong"]))))


def _source(finding: dict[str, Any]) -> str:
    holders: list[str] = finding["fetch_from"]
    return f"; may be fetched from {', '.join(holders)}" if holders else ""
