"""The ``covey-aggregator`` command line: a file a command."""

from __future__ import annotations

from typing import NoReturn

import click

from peer.cli import LazyGroup, run

COMMANDS = {
    "join": "aggregator.cli.join:join",
    "up": "aggregator.cli.up:up",
    "status": "aggregator.cli.status:status",
    "groups": "aggregator.cli.groups:groups",
    "issues": "aggregator.cli.issues:issues",
    "lineage": "aggregator.cli.lineage:lineage",
    "verify": "aggregator.cli.verify:verify",
    "redact": "aggregator.cli.redact:redact",
    "export": "aggregator.cli.export:export",
    "check": "aggregator.cli.check:check",
    "checkpoint": "aggregator.cli.checkpoint:checkpoint",
    "rebuild": "aggregator.cli.rebuild:rebuild",
    "id": "aggregator.cli.id:show_id",
    "config": "aggregator.cli.config:config",
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog="State lies in $COVEY_AGGREGATOR_HOME.")
@click.version_option(package_name="covey")
def aggregator() -> None:
    """Take in every record of a mesh, group its errors, file issues, and trace any output.

    \b
    At an admitter of the mesh:  covey ticket --role aggregator
    Here:                        covey-aggregator join TICKET && covey-aggregator up
    Then:                        covey-aggregator lineage CID
    """


def main() -> NoReturn:
    """Entry point of the ``covey-aggregator`` command."""
    run(aggregator, "covey-aggregator")
