"""The ``covey`` command line: a file a command."""

from __future__ import annotations

from typing import NoReturn

import click

from peer.cli import (
    LazyGroup,
    run as run_command,  # ``node.cli.run`` is a command's module
)

COMMANDS = {
    "init": "node.cli.init:init",
    "join": "node.cli.join:join",
    "ticket": "node.cli.ticket:ticket",
    "revoke": "node.cli.revoke:revoke",
    "leave": "node.cli.leave:leave",
    "mesh": "node.cli.mesh:mesh",
    "up": "node.cli.up:up",
    "id": "node.cli.id:show_id",
    "status": "node.cli.status:status",
    "peers": "node.cli.peers:peers",
    "doctor": "node.cli.doctor:doctor",
    "run": "node.cli.run:run_job",
    "job": "node.cli.job:job",
    "bench": "node.cli.bench:bench",
    "mcp": "node.cli.mcp:mcp",
    "models": "node.cli.models:models",
    "records": "node.cli.records:records",
    "errors": "node.cli.errors:errors",
    "config": "node.cli.config:config",
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog="State lies in $COVEY_HOME.")
@click.version_option(package_name="covey")
def covey() -> None:
    """Pool the machines you have for inference and benchmarks, and know what ran where.

    \b
    On the first machine:   covey init && covey up
                            covey ticket --role worker,submitter
    On every other:         covey join TICKET && covey up
    Then, anywhere:         covey run embed --model all-minilm-l6-v2 --input FILE
    """


def main() -> NoReturn:
    """Entry point of the ``covey`` command."""
    run_command(covey, "covey")
