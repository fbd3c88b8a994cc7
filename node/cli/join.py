"""``covey join``."""

from __future__ import annotations

import click

from peer.cli import emit, json_option


@click.command()
@click.argument("ticket")
@json_option
def join(ticket: str, as_json: bool) -> None:
    """Trade a join ticket for this machine's member certificate.

    \b
    Example:  covey join covey1...
    """
    import trio

    from node.cli.connection import home
    from peer.effects import system_effects
    from peer.enrol import enrol

    answer = trio.run(enrol, home(), ticket, system_effects(), "node")
    emit(
        answer,
        as_json,
        lambda a: (
            f"joined mesh {a['mesh']} as {', '.join(a['roles'])}\n"
            f"peer {a['peer']}\nnext: `covey up`"
        ),
    )
