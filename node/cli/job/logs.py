"""``covey job logs``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import job_id_argument
from node.job_story import promise
from peer.cli import emit, json_option, printable

SENTENCES = {
    "offered": "offered to {peer} (fence {fence})",
    "leased": "{peer} {promised}",
    "refused": "{peer} refused: {detail}",
    "accepted": "given to {peer}",
    "running": "{peer} runs it",
    "lost": "lost at {peer}: {detail}",
    "failed": "failed at {peer}: {detail}",
    "done": "{peer} has done it",
    "waits": "waits: {detail}",
    "ended": "ended: {detail}",
}


@click.command()
@job_id_argument
@json_option
def logs(job_id: str, as_json: bool) -> None:
    """Show step by step what happened to a job, from its submission to its end or until now:
    offers, leases, refusals, losses, waits, restarts, also under earlier runs of the node.

    \b
    Example:  covey job logs 0123456789abcdef0123456789abcdef
    """
    from node.cli.connection import connect

    with connect() as client:
        steps = client.get(f"/jobs/{job_id}/log")
    emit(steps, as_json, lambda steps: "\n".join(map(_line, steps)) or "nothing happened yet")


def _line(step: dict[str, Any]) -> str:
    promised = promise(int(step["detail"])) if step["what"] == "leased" else ""
    known = {"peer": "", "detail": "", **step, "promised": promised}
    told = SENTENCES.get(step["what"], "{what}").format(**known)
    return f"{step['at']}  {printable(told)}"
