"""``covey-aggregator checkpoint``."""

from __future__ import annotations

from typing import Any

import click

from aggregator.cli.access import act
from peer.cli import emit, json_option


@click.command()
@json_option
def checkpoint(as_json: bool) -> None:
    """Sign what this aggregator holds now; it does so by itself about every hour.

    `check` then names whatever is lost later, and other aggregators see whether they hold the same.
    Nothing is signed when nothing came since the last one.

    \b
    Example:  covey-aggregator checkpoint
    """
    emit(act("/checkpoint"), as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    made = "signed" if answer["is_new"] else "nothing came since the last one"
    return (
        f"{made}: checkpoint {answer['cid']}\n"
        f"{answer['records']} records, {answer['heads']} heads, state root {answer['state_root']}"
    )
