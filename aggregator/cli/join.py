"""``covey-aggregator join``."""

from __future__ import annotations

import click

from peer.cli import emit, json_option


@click.command()
@click.argument("ticket")
@json_option
def join(ticket: str, as_json: bool) -> None:
    """Trade a join ticket for this aggregator's member certificate.

    The ticket is from `covey ticket --role aggregator` at an admitter of the mesh. The first
    aggregator of a mesh also becomes its filer: the one that writes issues.

    \b
    Example:  covey-aggregator join covey1...
    """
    import trio

    from aggregator.cli.access import home
    from peer.effects import system_effects
    from peer.enrol import enrol

    answer = trio.run(enrol, home(), ticket, system_effects(), "aggregator")
    emit(
        answer,
        as_json,
        lambda a: f"joined mesh {a['mesh']} as {', '.join(a['roles'])}; peer {a['peer']}",
    )
