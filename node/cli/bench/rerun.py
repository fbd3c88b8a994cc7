"""``covey bench rerun``."""

from __future__ import annotations

import sys
from typing import Any

import click

from peer.cli import CidName, emit, json_option, table

TIMEOUT_S = 600.0
COLUMNS = {
    "figure": "FIGURE",
    "before": "BEFORE",
    "after": "AFTER",
    "apart": "APART",
    "spreads": "SPREAD BEFORE, AFTER",
    "verdict": "VERDICT",
}


@click.command()
@click.argument("cid", type=CidName())
@click.option(
    "--tolerance",
    "tolerance_percent",
    type=click.FloatRange(0, 1_000, min_open=True),
    help="By how many percent one median may be above the other.  [default: 25]",
)
@json_option
def rerun(cid: str, tolerance_percent: float | None, as_json: bool) -> None:
    """Repeat a recorded benchmark: same worker, same parameters. Say whether it comes out the same.

    Exit status 1 means that a figure lies outside the tolerance. The verdict is recorded.

    \b
    Example:  covey bench rerun bafyrei... --tolerance 10
    """
    from node.benchmarks.verdict import TOLERANCE_PERCENT
    from node.cli.bench.running import run_one
    from node.cli.connection import connect

    with connect() as control:
        before = control.get(f"/bench/{cid}")
        after = run_one(control, {**before, "peer": before["worker"], "timeout_s": TIMEOUT_S})
        asked = {
            "before": cid,
            "after": after["cid"],
            "tolerance_percent": tolerance_percent or TOLERANCE_PERCENT,
        }
        verdict = control.post("/bench/verdict", asked)
    emit({"verdict": verdict, "before": before, "after": after}, as_json, _render)
    if not verdict["is_passed"]:
        sys.exit(1)


def _render(answer: dict[str, Any]) -> str:
    from node.cli.bench import render

    verdict = answer["verdict"]
    rows = [
        {
            "figure": each["figure"],
            "before": render.number(each["before"]),
            "after": "-" if each["after"] is None else render.number(each["after"]),
            "apart": "gone" if each["after"] is None else f"{each['apart_percent']:.1f} %",
            "spreads": _spreads(each),
            "verdict": "pass" if each["is_passed"] else "FAIL",
        }
        for each in verdict["figures"]
    ]
    word = "passed" if verdict["is_passed"] else "FAILED"
    summary = (
        f"{word}: at most {verdict['worst_apart_percent']:.1f} % apart, "
        f"{verdict['tolerance_percent']:g} % allowed; verdict {verdict['cid']}"
    )
    changes = [f"changed: {name} {was} -> {now}" for name, (was, now) in verdict["changed"].items()]
    return "\n".join([table(rows, COLUMNS, empty="no figures"), *changes, summary])


def _spreads(each: dict[str, Any]) -> str:
    after = each["spread_after_percent"]
    told = f"{each['spread_before_percent']:.0f} %, {'-' if after is None else f'{after:.0f} %'}"
    return f"{told}, noisy" if each["is_noisy"] else told
