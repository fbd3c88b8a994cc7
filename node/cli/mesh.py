"""``covey mesh backup`` and ``covey mesh restore``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from peer.cli import RoleList, emit, json_option

PASSPHRASE_VARIABLE = "COVEY_MESH_PASSPHRASE"


@click.group()
def mesh() -> None:
    """Keep the mesh's root key safe."""


@mesh.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def backup(file: Path, as_json: bool) -> None:
    """Write root key, tickets and revocations to FILE, encrypted with a passphrase.

    The passphrase is asked for, or taken from COVEY_MESH_PASSPHRASE. Keep FILE off this machine.

    \b
    Example:  covey mesh backup /media/stick/mesh.backup
    """
    from node.cli.connection import home
    from peer.backup import back_up
    from peer.effects import system_effects

    root = back_up(home().path, file, _passphrase(confirm=True), system_effects())
    answer = {"mesh": root.peer_id, "file": str(file), "size_bytes": file.stat().st_size}
    emit(answer, as_json, lambda a: f"mesh {a['mesh']} backed up to {a['file']}")


@mesh.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--role",
    "roles",
    type=RoleList(),
    default="worker,submitter",
    show_default=True,
    help="What this node is besides an admitter, if it is no member yet, with commas.",
)
@json_option
def restore(file: Path, roles: tuple[str, ...], as_json: bool) -> None:
    """Make this machine's node an admitter with the root key in FILE.

    Replaces nothing: a state directory of another mesh is refused. The node must be down.

    \b
    Example:  covey mesh restore /media/stick/mesh.backup
    """
    import trio

    from node.cli.connection import home

    answer = trio.run(_restore, home(), file, _passphrase(confirm=False), roles)
    emit(
        answer,
        as_json,
        lambda a: f"mesh {a['mesh']}\npeer {a['peer']} ({', '.join(a['roles'])})\nin {a['home']}",
    )


async def _restore(
    home: Any, file: Path, passphrase: str, roles: tuple[str, ...]
) -> dict[str, Any]:
    from peer.backup import restore as restore_into
    from peer.effects import system_effects
    from peer.enrol import who_am_i

    async with home.locked():
        restore_into(home.path, file, passphrase, roles, system_effects())
    return who_am_i(home)


def _passphrase(*, confirm: bool) -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise click.UsageError(f"set {PASSPHRASE_VARIABLE} where nobody can type a passphrase")
    ask: Any = click.prompt
    return str(ask("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
