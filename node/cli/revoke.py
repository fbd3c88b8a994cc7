"""``covey revoke``."""

from __future__ import annotations

from typing import Any

import click

from peer.cli import emit, json_option, note


@click.command()
@click.argument("peer")
@json_option
def revoke(peer: str, as_json: bool) -> None:
    """Put a peer out of the mesh for good.

    Runs where the mesh's root key is. Connected peers drop it within seconds, the others when they
    next meet one of them. What it recorded before stays. Members that a revoked admitter let in are
    out with it.

    \b
    Example:  covey revoke 12D3KooW...
    """
    from node.cli.connection import connect, home
    from peer.control import DaemonDownError

    try:
        with connect() as client:
            answer = client.post("/revoke", {"peer": peer})
    except DaemonDownError:
        import trio

        answer = trio.run(_on_disk, home(), peer)
        note("the node is down: the mesh hears of it when the node is up again")
    emit(answer, as_json, _render)


async def _on_disk(home: Any, peer: str) -> dict[str, Any]:
    from peer.effects import system_effects
    from peer.identity import Identity
    from peer.revocations import Revocations, revoke as revoke_in

    async with home.locked():
        identity = Identity.load(home.path)
        mesh = identity.member.mesh
        revocations = Revocations.open(home.path, mesh, system_effects())
        return {**revoke_in(revocations, identity, peer), "told": 0}


def _render(answer: dict[str, Any]) -> str:
    what = "revoked" if answer["is_news"] else "was revoked already:"
    return f"{what} {answer['peer']} (list {answer['version']}, {answer['told']} peers told)"
