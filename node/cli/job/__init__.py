"""``covey job``: jobs that outlive the command that submitted them."""

from __future__ import annotations

import click

from peer.cli import LazyGroup

COMMANDS = {
    "submit": "node.cli.job.submit:submit",
    "wait": "node.cli.job.wait:wait",
    "result": "node.cli.job.result:result",
    "list": "node.cli.job.list:list_jobs",
    "show": "node.cli.job.show:show",
    "logs": "node.cli.job.logs:logs",
    "why": "node.cli.job.why:why",
    "cancel": "node.cli.job.cancel:cancel",
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def job() -> None:
    """Submit jobs now and come back for them later.

    `submit` returns once the node has promised to do the job: it is done although this command, the
    node or a worker ends meanwhile, as soon as somebody can do it.
    """
