"""``covey bench``: what machines, models and the network between them really do."""

from __future__ import annotations

import click

from peer.cli import LazyGroup

COMMANDS = {
    "run": "node.cli.bench.run:run",
    "list": "node.cli.bench.list:list_benchmarks",
    "show": "node.cli.bench.show:show",
    "compare": "node.cli.bench.compare:compare",
    "rerun": "node.cli.bench.rerun:rerun",
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def bench() -> None:
    """Measure workers, keep what was measured as signed records, and compare them.

    A benchmark is a job that runs alone on its worker. Each figure says how many samples it rests
    on and how far they lie apart; an unsteady machine shows as such.
    """
