"""Becoming a member from the command line: an identity, a ticket, a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peer.identity import Identity, IdentityError
from peer.service import running
from protocols.keys import peer_id_of

if TYPE_CHECKING:
    from peer.effects import Effects
    from peer.home import Home

JOIN_FROM: Final = "/ip4/127.0.0.1/tcp/0"  # nobody needs to reach us while we join


async def enrol(home: Home, ticket: str, effects: Effects, program: str) -> dict[str, Any]:
    """Trade ``ticket`` for a certificate that ``program`` will use, kept durably in
    ``home``; return what ``who_am_i`` does.

    Raises what ``Ticket.parse``, ``Identity`` and ``join`` raise.
    """
    from peer.join import join
    from protocols.ticket import Ticket
    from protocols.transport import open_transport

    parsed = Ticket.parse(ticket)
    async with home.locked():
        identity = Identity.load_or_create(home.path, effects)
        if identity.membership is not None and identity.membership.mesh != parsed.mesh:
            raise IdentityError(
                "this peer belongs to another mesh already",
                code="already-member",
                hint="use another state directory for another mesh",
            )
        transport = open_transport(identity.key, [JOIN_FROM])
        async with running(transport.run):
            membership = await join(transport, parsed, identity.key, effects, program)
        identity.save(membership)
    return who_am_i(home)


def who_am_i(home: Home) -> dict[str, Any]:
    """Return the peer id of ``home``, and its mesh and roles once it has one."""
    identity = Identity.load(home.path)
    membership = identity.membership
    return {
        "peer": identity.peer_id,
        "mesh": peer_id_of(membership.mesh) if membership else None,
        "roles": list(membership.certificate.roles) if membership else [],
        "home": str(home.path),
    }
