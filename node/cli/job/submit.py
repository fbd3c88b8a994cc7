"""``covey job submit``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import Seconds
from node.cli.kind_options import KindCommand
from node.cli.run import input_options, request_of
from peer.cli import emit, json_option, note, printable

DAY_S = 86_400.0


@click.command(cls=KindCommand)
@input_options
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    default=DAY_S,
    show_default=True,
    help="Seconds until it is given up.",
)
@json_option
def submit(kind: str, as_json: bool, **wanted: Any) -> None:
    """Have the node promise to do a job of KIND, and print the job's id.

    Takes the input as `covey run` does. The same --job-id, kind, model and input again is the same
    job; if that ended without a result, it is tried again. If nobody fits the job now, stderr says
    why: it waits.

    \b
    Example:  covey job submit embed --model all-minilm-l6-v2 --input sentences.txt
    """
    from node import requests
    from node.cli.connection import connect

    job = request_of(kind, **wanted)
    with connect() as control:
        answer = requests.submit(control, job)
    emit(answer, as_json, lambda answer: answer["job_id"])
    if not as_json and (remark := _remark(answer)):
        note(printable(remark))


def _remark(answer: dict[str, Any]) -> str:
    """What to know about a job besides its id; nothing if all is as usual."""
    if answer["state"] == "done":
        return f"it is done already: covey job result {answer['job_id']}"
    told = "tried again" if answer["is_tried_again"] else "accepted"
    if answer["waits_for"]:
        why, until = answer["waits_for"], answer["given_up_at"]
        return f"{told}; nobody can take it now: {why}; it waits until {until}"
    return "" if told == "accepted" else told
