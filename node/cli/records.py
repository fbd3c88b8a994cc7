"""``covey records list|show|verify|check|export|redact``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from node.cli.arguments import LIMIT
from node.cli.damage import note_damage, render_check
from peer.cli import CidName, emit, json_option, note, table
from peer.excerpt_commands import (
    check_scope,
    cid_argument,
    cids_argument,
    confirm_redaction,
    emit_verdict,
    export_epilog,
    export_options,
    export_to,
    file_option,
    mesh_option,
    reason_option,
    redacted_line,
    render_redactions,
    verify_file,
    with_options,
    yes_option,
)

COLUMNS = {"at": "TIME (UTC)", "kind": "KIND", "status": "STATUS", "peer": "PEER", "cid": "CID"}

DROPPED = (
    "covey: the first {next_sequence} records of {peer} in epoch {epoch} were dropped here:"
    " aggregator {aggregator} keeps them"
)


@click.group()
def records() -> None:
    """Read, check, export and redact the records that this node holds."""


@records.command("list")
@click.option("--kind", help="Only records of this kind, such as job.run.")
@click.option(
    "--limit", type=LIMIT, default=50, show_default=True, help="How many, the newest first."
)
@json_option
def list_records(kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest records.

    \b
    Example:  covey records list --kind job.accepted
    """
    from node.cli.reading import reader

    with reader() as read:
        rows = read("/records", kind=kind or "", limit=limit)
        emit(rows, as_json, lambda rows: table(rows, COLUMNS, empty="no records"))
        if not as_json:
            for row in rows:
                if row["redacted"]:
                    note(f"covey: {redacted_line(row)}")
            note_damage(rows)
            for row in read("/dropped"):
                note(DROPPED.format(**row))


@records.command()
@click.argument("cid", type=CidName())
@json_option
def show(cid: str, as_json: bool) -> None:
    """Show one record whole.

    \b
    Example:  covey records show bafyrei...
    """
    from node.cli.reading import reader

    with reader() as read:
        row = read(f"/records/{cid}")
    emit(row, as_json, lambda row: json.dumps(row, indent=2))
    note_damage([row])


@records.command("verify")
@cid_argument
@file_option
@mesh_option
@json_option
def verify_record(cid: str | None, file: Path | None, mesh: str | None, as_json: bool) -> None:
    """Check a record's digest, signature and parents, or all of an exported CAR file, and whether
    its authors were members of a mesh.

    A file is checked from its bytes alone: no daemon, no state and no network is needed. Exit
    status 1 means that something is wrong; parents that are missing are told, and are no fault.

    \b
    Example:  covey records verify bafyrei...
              covey records verify --file records.car --mesh 12D3KooW...
    """
    if file is not None:
        emit_verdict(verify_file(file, cid, mesh), as_json)
        return
    if cid is None:
        raise click.UsageError("name a CID or a --file")
    from node.cli.reading import verify

    emit_verdict(verify(cid, mesh or ""), as_json)


@records.command("check")
@json_option
def check_records(as_json: bool) -> None:
    """Check every byte of what this node holds, and say what is wrong and who may still have it.

    Walks the journal: digests, signatures and chains of its own feed and of what it keeps of
    workers, and whether the index follows it. A running node asks whoever may have what is gone.
    Exit status 1 means that something is wrong.

    \b
    Example:  covey records check
    """
    from node.cli.reading import check

    answer = check()
    emit(answer, as_json, render_check)
    if not answer["ok"]:
        sys.exit(1)


@records.command("export", epilog=export_epilog)
@with_options(export_options)
@json_option
def export_records(form: str, is_all: bool, since: str, output: Path, as_json: bool) -> None:
    """Write the records that this node holds to a file that other tools read.

    \b
    Example:  covey records export car --all --output records.car
    """
    from node.cli.reading import download

    check_scope(is_all, since)
    export_to(output, as_json, lambda out: download(form, out, since))


@records.command("redact")
@cids_argument
@reason_option
@click.option(
    "--dropped", is_flag=True, help="They are not here: this node wrote them, and dropped them."
)
@yes_option
@json_option
def redact_record(
    cids: tuple[str, ...], reason: str, dropped: bool, yes: bool, as_json: bool
) -> None:
    """Erase the content of some of this node's records, here and at whoever else holds it.

    A signed tombstone takes its place and stays, with the reason and your name. The record's digest
    and its bundle's signature stay too, so everything else still verifies. It cannot be undone.
    Many are erased at once in about the time of one: name them together.

    \b
    Example:  covey records redact bafyrei... --reason "names a customer" --yes
    """
    from node.cli.connection import connect

    confirm_redaction(cids, yes)
    asked = {"records": cids, "reason": reason, "dropped": dropped}
    with connect() as client:
        answer = client.post("/redact", asked)
    emit(answer, as_json, render_redactions)
