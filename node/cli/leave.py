"""``covey leave``."""

from __future__ import annotations

import sys
from typing import Any

import click

from peer.cli import emit, json_option


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def leave(yes: bool, as_json: bool) -> None:
    """Take this machine out of its mesh; a running node stops.

    The admitters are told if they can be reached, so that the certificate counts nowhere any more.
    Identity and journal stay: the same peer may join again with a new ticket.

    \b
    Example:  covey leave --yes
    """
    from node.cli.connection import connect, home
    from peer.control import DaemonDownError
    from peer.identity import Identity
    from peer.leaving import check_may_leave

    check_may_leave(Identity.load(home().path))
    if not yes:
        _confirm()
    try:
        with connect() as client:
            answer = client.post("/leave")
    except DaemonDownError:
        import trio

        answer = trio.run(_without_daemon, home())
    emit(answer, as_json, _render)


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("leaving asks for confirmation: use --yes where nobody can answer")
    click.confirm("Take this machine out of its mesh?", abort=True, err=True)


async def _without_daemon(home: Any) -> dict[str, Any]:
    from peer.enrol import JOIN_FROM
    from peer.identity import Identity
    from peer.leaving import from_ticket, leave as leave_mesh
    from peer.service import running
    from protocols.transport import open_transport

    async with home.locked():
        identity = Identity.load(home.path)
        transport = open_transport(identity.key, [JOIN_FROM])
        async with running(transport.run):
            return await leave_mesh(identity, transport, from_ticket(identity.member))


def _render(answer: dict[str, Any]) -> str:
    if answer["is_void"]:
        what = "its certificate counts nowhere any more"
    elif answer["told"]:
        what = "an admitter knows; the certificate ends by itself"
    else:
        what = "no admitter could be told; the certificate ends by itself"
    return f"left mesh {answer['mesh']}: {what}\npeer {answer['peer']} keeps its identity"
