"""``covey status``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, listing


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
    return listing({**answer, "runners": [_runner(each) for each in answer["runners"]]})


def _runner(runner: dict[str, Any]) -> str:
    return "{model} {precision} {state} ({jobs_done} jobs done, pid {pid})".format(**runner)
