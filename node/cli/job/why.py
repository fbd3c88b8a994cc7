"""``covey job why``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import job_id_argument
from node.job_story import ENDED, duration
from peer.cli import emit, json_option, printable, table

COLUMNS = {
    "peer": "PEER",
    "speed": "GFLOP/S",
    "basis": "FROM",
    "promised": "PROMISED",
    "answer": "WHAT BECAME OF IT",
}


@click.command()
@job_id_argument
@json_option
def why(job_id: str, as_json: bool) -> None:
    """Say why a job went where it went: who was considered, with which speed, what each promised,
    and what became of the job there.

    Knows every job of `covey job submit`, and the last 256 others of the running node.

    \b
    Example:  covey job why 0123456789abcdef0123456789abcdef
    """
    from node.cli.connection import connect

    with connect() as client:
        emit(client.get(f"/jobs/{job_id}/why"), as_json, _render)


def _render(told: dict[str, Any]) -> str:
    attempts = told["attempts"]
    counted = f"{attempts} attempt{'' if attempts == 1 else 's'}"
    lines = [f"{told['state']} after {counted}; looked for {told['looked_for']}"]
    if reason := told.get("reason"):
        lines.append(f"{'why' if told['state'] in ENDED else 'waits'}: {reason}")
    rows = [{**row, "promised": _promise(row["promised_ms"])} for row in told["candidates"]]
    head = "\n".join(map(printable, lines))
    return f"{head}\n{table(rows, COLUMNS, empty='it was put to nobody')}"


def _promise(eta_ms: int | None) -> str | None:
    return None if not eta_ms else duration(eta_ms / 1_000)
