"""``covey-aggregator export``."""

from __future__ import annotations

from pathlib import Path

import click

from peer.cli import CidName, json_option
from peer.excerpt_commands import (
    check_scope,
    export_epilog,
    export_options,
    export_to,
    with_options,
)


@click.command(epilog=export_epilog)
@with_options(export_options)
@click.option(
    "--lineage", type=CidName(), metavar="CID", help="What made this CID, as `lineage` shows it."
)
@json_option
def export(
    form: str, is_all: bool, since: str, output: Path, lineage: str | None, as_json: bool
) -> None:
    """Write records to a file that other tools read.

    \b
    Example:  covey-aggregator export car --lineage bafkreih… --output lineage.car
    """
    from aggregator.cli.access import download

    check_scope(is_all, since, lineage)
    query = {"lineage": lineage} if lineage else {"since": since}
    export_to(output, as_json, lambda out: download(form, out, **query))
