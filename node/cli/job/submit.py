"""``covey job submit``."""

from __future__ import annotations

from typing import Any

import click

from node.cli.arguments import Seconds
from node.cli.kind_options import KindCommand
from node.cli.run import input_options, request_of
from peer.cli import emit, json_option

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
    job.

    \b
    Example:  covey job submit embed --model all-minilm-l6-v2 --input sentences.txt
    """
    from node import requests
    from node.cli.connection import connect

    job = request_of(kind, **wanted)
    with connect() as control:
        emit(requests.submit(control, job), as_json, lambda answer: answer["job_id"])
