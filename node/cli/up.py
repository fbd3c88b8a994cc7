"""``covey up``."""

from __future__ import annotations

import os

import click


@click.command()
def up() -> None:
    """Run this machine's node until it is told to stop (SIGTERM or Ctrl-C drains it).

    \b
    Example:  COVEY_LISTEN_HOST=192.0.2.7 covey up
    """
    from node.cli.connection import home
    from node.daemon import run

    run(home(), os.environ)
