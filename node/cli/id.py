"""``covey id``."""

from __future__ import annotations

import click

from peer.cli import emit, json_option


@click.command("id")
@json_option
def show_id(as_json: bool) -> None:
    """Print this node's peer id, mesh and roles.

    \b
    Example:  covey id
    """
    from node.cli.connection import home
    from peer.enrol import who_am_i

    emit(
        who_am_i(home()),
        as_json,
        lambda a: (
            f"peer {a['peer']}\nmesh {a['mesh'] or '-'}\nroles {', '.join(a['roles']) or '-'}"
        ),
    )
