"""``covey-aggregator verify``."""

from __future__ import annotations

from pathlib import Path

import click

from peer.cli import json_option
from peer.excerpt_commands import cid_argument, emit_verdict, file_option, mesh_option, verify_file


@click.command()
@cid_argument
@file_option
@mesh_option
@click.option("--deep", is_flag=True, help="Check its whole lineage, not only the nearest records.")
@json_option
def verify(cid: str | None, file: Path | None, mesh: str | None, deep: bool, as_json: bool) -> None:
    """Check digests, signatures and parents of records, here or in an exported CAR file, and
    whether their authors were members of a mesh.

    CID is a record's, or that of an output, an input or a model. A file is checked from its bytes
    alone: no daemon, no state and no network is needed. Exit status 1 means that something is
    wrong; parents that are missing are told, and are no fault.

    \b
    Example:  covey-aggregator verify bafkreih… --deep
              covey-aggregator verify --file lineage.car --mesh 12D3KooW…
    """
    if file is not None:
        if deep:
            raise click.UsageError("a file is always checked whole: leave out --deep")
        emit_verdict(verify_file(file, cid, mesh), as_json)
        return
    if cid is None:
        raise click.UsageError("name a CID or a --file")
    from aggregator.cli.access import read

    emit_verdict(read(f"/verify/{cid}", deep=str(deep).lower(), mesh=mesh or ""), as_json)
