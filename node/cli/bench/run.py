"""``covey bench run``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from peer.cli import emit, json_option, note

if TYPE_CHECKING:
    from peer.control import ControlClient

KINDS = ("bench.compute", "bench.memory", "bench.model", "bench.network")
GONE = frozenset({"no-worker", "worker-lost"})
"""Codes after which the rest of a peer's suite would only fail again."""


@click.command()
@click.option("--peer", help="The worker to measure; default: this node.")
@click.option("--all", "is_all", is_flag=True, help="Every worker, one after the other.")
@click.option("--suite", type=click.Choice(["quick", "full"]), default="quick", show_default=True)
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind.")
@json_option
def run(peer: str | None, is_all: bool, suite: str, kinds: tuple[str, ...], as_json: bool) -> None:
    """Measure processor, memory, models and network of workers.

    The quick suite takes about 15 seconds a worker, the full one a minute and a half with one
    model. A benchmark waits for the jobs of its worker, and they for it. Exit status 1 means that
    some failed; the others were run all the same.

    \b
    Example:  covey bench run --all --suite quick
    """
    from node.cli.bench import render
    from node.cli.connection import connect

    if peer is not None and is_all:
        raise click.UsageError("--peer and --all exclude each other")
    with connect() as control:
        planned = control.get(
            "/bench/plan", suite=suite, peer=peer or "", all=is_all, kinds=",".join(kinds)
        )
        results, failures = _run_all(control, planned)
    answer = {"suite": suite, "results": results, "failures": failures}
    emit(
        answer,
        as_json,
        lambda _: "\n\n".join(f"{render.heading(r)}\n{render.figures(r)}" for r in results),
    )
    if failures:
        sys.exit(1)


def _run_all(
    control: ControlClient, planned: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run one after the other, and return what came of them and what failed."""
    from node.cli.bench.render import subject
    from node.cli.bench.running import run_one
    from peer.control import DaemonDownError
    from protocols.errors import CoveyError

    results: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    gone: set[str] = set()
    for number, each in enumerate(planned, 1):
        if each["peer"] in gone:
            continue
        note(f"{number}/{len(planned)} {subject(each)} at {each['peer']}")
        try:
            results.append(run_one(control, each))
        except DaemonDownError:
            raise
        except CoveyError as error:
            note(f"covey: {subject(each)} at {each['peer']} failed: {error.message}")
            failures.append(_failure(each, error))
            if error.code in GONE:
                gone.add(each["peer"])
    return results, failures


def _failure(planned: dict[str, Any], error: Any) -> dict[str, Any]:
    named = {name: planned[name] for name in ("peer", "kind", "model", "precision")}
    return {**named, "code": error.code, "message": error.message, "hint": error.hint}
