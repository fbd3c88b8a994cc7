"""``covey bench compare``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from peer.cli import emit, json_option, table

LIMIT = 1_000  # of the newest benchmarks of a peer: what was last measured is among them


@click.command()
@click.argument("targets", nargs=-1, required=True)
@json_option
def compare(targets: tuple[str, ...], as_json: bool) -> None:
    """Put benchmarks beside each other: CIDs of records, or peers with their latest of each kind.

    Each is held against the first. A difference inside what both vary by themselves is none.

    \b
    Example:  covey bench compare 12D3KooW... 12D3KooW...
    """
    from node.benchmarks.verdict import compare as compared
    from node.cli.reading import reader

    if len(targets) < 2:
        raise click.UsageError("name at least two records or peers")
    with reader() as read:
        columns = [_column(read, target) for target in targets]
    told = [
        {"target": target, "cids": [row["cid"] for row in rows], "worker": rows[0]["worker"]}
        for target, rows in zip(targets, columns, strict=True)
    ]
    emit({"columns": told, "figures": compared(columns)}, as_json, _render)


def _column(read: Callable[..., Any], target: str) -> list[dict[str, Any]]:
    """Return one benchmark, or the latest ones of a peer."""
    from node.errors import UnknownError

    if target.startswith("baf"):
        return [read(f"/bench/{target}")]
    latest: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in read("/bench", peer=target, limit=LIMIT):
        latest.setdefault((row["kind"], row["model"], row["precision"]), row)
    if not target or not latest:
        raise UnknownError(
            f"no benchmark of {target!r} is known here",
            code="unknown-benchmark",
            hint="measure it with `covey bench run --peer`, or name a CID of `covey bench list`",
        )
    return list(latest.values())


def _render(answer: dict[str, Any]) -> str:
    columns = {"figure": "FIGURE"} | {
        str(place): f"…{column['target'][-8:]}" for place, column in enumerate(answer["columns"])
    }
    rows = [
        {"figure": _figure(each)} | {str(n): _cell(cell) for n, cell in enumerate(each["cells"])}
        for each in answer["figures"]
    ]
    return table(rows, columns, empty="nothing to compare")


def _figure(each: dict[str, Any]) -> str:
    name = each["figure"]
    return name if each["model"] == "machine" else f"{each['model']} {each['precision']} {name}"


def _cell(cell: dict[str, Any] | None) -> str:
    from node.cli.bench import render

    if cell is None:
        return "-"
    told = f"{render.number(cell['median'])} (n {cell['n']}, spread {render.spread(cell)})"
    if cell["ratio"] is None:
        return told if cell["verdict"] is None else f"{told} other parameters"
    return f"{told} {cell['ratio']:.2f}x {cell['verdict'].replace('-', ' ')}"
