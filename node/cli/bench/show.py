"""``covey bench show``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import CidName, emit, json_option, printable


@click.command()
@click.argument("cid", type=CidName())
@json_option
def show(cid: str, as_json: bool) -> None:
    """Show one benchmark whole: figures, parameters, machine, software, and who says so.

    \b
    Example:  covey bench show bafyrei...
    """
    from node.cli.reading import reader

    with reader() as read:
        emit(read(f"/bench/{cid}"), as_json, _render)


def _render(row: dict[str, Any]) -> str:
    from node.cli.bench import render

    informed = [link["cid"] for link in row["links"] if link["direction"] == "informed_by"]
    facts = {
        "record": f"{row['record']} {row['cid']}",
        "signed by": row["peer"],
        "at": row["at"],
        "worker": row["worker"],
        "submitter": row["submitter"],
        "machine": render.fields(row["machine"]),
        "software": row["software"],
        "hardware": row["hardware"],
        "environment": row["environment"],
        "execution": render.fields(row["execution"]),
        "parameters": render.fields(row["parameters"]),
        "job": row["job_id"],
        "follows from": ", ".join(informed),
    }
    lines = [f"{name:<14}{printable(str(value))}" for name, value in facts.items() if value]
    return "\n".join([render.subject(row), *lines, "", render.figures(row)])
