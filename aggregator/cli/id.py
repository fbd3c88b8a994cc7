"""``covey-aggregator id``."""

from __future__ import annotations

import click

from peer.cli import emit, json_option


@click.command("id")
@json_option
def show_id(as_json: bool) -> None:
    """Print this aggregator's peer id, mesh and roles.

    \b
    Example:  covey-aggregator id
    """
    from aggregator.cli.access import home
    from peer.enrol import who_am_i

    emit(
        who_am_i(home()),
        as_json,
        lambda a: (
            f"peer {a['peer']}\nmesh {a['mesh'] or '-'}\nroles {', '.join(a['roles']) or '-'}"
        ),
    )
