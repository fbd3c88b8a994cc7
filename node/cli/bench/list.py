"""``covey bench list``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, printable, table

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
        rows = read("/bench", peer=peer or "", kind=kind or "", limit=limit)
    what = " ".join(filter(None, (kind, f"of {peer}" if peer else "")))
    none = f"no benchmark {what} is known here" if what else "no benchmarks: try `covey bench run`"
    emit(rows, as_json, lambda found: _render(found, none))


def _render(rows: list[dict[str, Any]], none: str) -> str:
    from node.cli.bench import render

    cells: list[dict[str, Any]] = []
    for row in rows:
        first = row["figures"][0]
        headline = f"{first['name']} {render.number(first['median'])} (n {first['n']})"
        shown = {"subject": render.subject(row), "headline": headline}
        cells.append({**row, **shown, "spread": render.spread(first)})
    return table(cells, COLUMNS, empty=printable(none))
