"""``covey init``."""

from __future__ import annotations

import click

from peer.cli import RoleList, emit, json_option


@click.command()
@click.option(
    "--role",
    "roles",
    type=RoleList(),
    default="worker,submitter",
    show_default=True,
    help="What this node is besides the mesh's first admitter, with commas.",
)
@json_option
def init(roles: tuple[str, ...], as_json: bool) -> None:
    """Make a closed mesh, with this machine's node as its first admitter.

    The mesh's root key stays in root.key of the state directory: whoever has it owns the mesh.

    \b
    Example:  covey init
    """
    from node.cli.connection import home
    from peer.effects import system_effects
    from peer.identity import Identity, init_mesh
    from protocols.keys import peer_id_of

    home().create()
    effects = system_effects()
    identity = Identity.load_or_create(home().path, effects)
    membership = init_mesh(identity, effects, roles)
    answer = {
        "mesh": peer_id_of(membership.mesh),
        "peer": identity.peer_id,
        "roles": list(membership.certificate.roles),
        "home": str(home().path),
    }
    emit(
        answer,
        as_json,
        lambda a: (
            f"mesh {a['mesh']}\npeer {a['peer']} ({', '.join(a['roles'])})\nin {a['home']}\n"
            "next: `covey up`, then `covey ticket` for every other machine"
        ),
    )
