"""``covey status``."""

from __future__ import annotations

from typing import Any, cast

import click

from peer.cli import emit, json_option


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Say how this node is: mesh, roles, peers, models, jobs, records.

    \b
    Example:  covey status --json
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get("/status"), as_json, _render)


def _render(answer: dict[str, Any]) -> str:
    shown = {**answer, "runners": [_runner(each) for each in answer["runners"]]}
    return "\n".join(f"{key.replace('_', ' '):<18}{_value(value)}" for key, value in shown.items())


def _runner(runner: dict[str, Any]) -> str:
    return "{model} {precision} {state} ({jobs_done} jobs done, pid {pid})".format(**runner)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{key} {inner}" for key, inner in cast("dict[str, Any]", value).items())
        return ", ".join(parts) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[Any]", value))) or "-"
    return "-" if value is None else str(value)
