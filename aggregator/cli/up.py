"""``covey-aggregator up``."""

from __future__ import annotations

import os

import click


@click.command()
def up() -> None:
    """Run the aggregator until it is told to stop (SIGTERM or Ctrl-C), then flush and exit 0.

    It follows the feeds of every peer that it meets, and files issues if it is the mesh's filer.

    \b
    Example:  COVEY_FILING_AGE_S=0 covey-aggregator up
    """
    from aggregator.cli.access import home
    from aggregator.daemon import run

    run(home(), os.environ)
