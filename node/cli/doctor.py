"""``covey doctor``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, table

COLUMNS = {"peer": "PEER", "found_by": "FOUND BY", "state": "STATE", "last_error": "LAST ERROR"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say which way of discovery found whom, and why one did not.

    \b
    Example:  covey doctor
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get("/doctor"), as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    methods = "\n".join(f"{name:<12}{state}" for name, state in answer["methods"].items())
    return f"{methods}\n\n" + table(answer["peers"], COLUMNS, empty="nobody was found yet")
