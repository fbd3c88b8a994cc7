"""``covey status``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import counted, emit, json_option, listing


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
    told: dict[str, Any] = {**answer, "runners": list(map(_runner, answer["runners"]))}
    bundles, damaged_bytes = told.pop("damaged_bundles"), told.pop("damaged_bytes")
    if bundles or damaged_bytes:
        told["damaged"] = (
            f"{counted(bundles, 'bundle')} and {damaged_bytes} bytes on this disk:"
            " `covey records check` says which, and who may have them"
        )
    return listing(told)


def _runner(runner: dict[str, Any]) -> str:
    return "{model} {precision} {state} ({jobs_done} jobs done, pid {pid})".format(**runner)
