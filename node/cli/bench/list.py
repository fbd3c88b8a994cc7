"""``covey bench list``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, table

COLUMNS = {
    "at": "TIME (UTC)",
    "subject": "BENCHMARK",
    "worker": "WORKER",
    "headline": "FIRST FIGURE",
    "spread": "SPREAD",
    "cid": "CID",
}


@click.command("list")
@click.option("--peer", help="Only of this worker.")
@click.option("--kind", help="Only of this kind, such as bench.compute.")
@click.option("--limit", default=50, show_default=True, help="How many, the newest first.")
@json_option
def list_benchmarks(peer: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the benchmarks that this node ran for others, and others for it.

    \b
    Example:  covey bench list --kind bench.model
    """
    from node.cli.reading import reader

    with reader() as read:
        emit(read("/bench", peer=peer or "", kind=kind or "", limit=limit), as_json, _render)


def _render(rows: list[dict[str, Any]]) -> str:
    from node.cli.bench import render

    cells: list[dict[str, Any]] = []
    for row in rows:
        first = row["figures"][0]
        headline = f"{first['name']} {render.number(first['median'])} (n {first['n']})"
        shown = {"subject": render.subject(row), "headline": headline}
        cells.append({**row, **shown, "spread": render.spread(first)})
    return table(cells, COLUMNS, empty="no benchmarks: try `covey bench run`")
