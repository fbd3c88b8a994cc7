"""Leaving a mesh: the admitters are told if they can be reached, then the membership goes.

Key, boot counter and journal stay, so the same peer may join again, and what it recorded is not
lost. Without anybody to tell, the certificate that is deleted here simply runs out.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from peer.addresses import PeerAddress
from peer.durable import remove_durably
from peer.identity import MEMBERSHIP_FILE, Identity, load_root_key
from peer.join import ask
from protocols.errors import CoveyError, LocalProtocolError
from protocols.join import LeaveReply, LeaveRequest, raise_refusal
from protocols.keys import PeerId, peer_id_of
from protocols.membership import Membership
from protocols.transport import Transport

log = logging.getLogger(__name__)

TELL_WITHIN_S: Final = 10.0  # leaving must be possible when nobody is there

Addresses = dict[PeerId, list[str]]
"""Admitters, and where each may be dialled."""


def check_may_leave(identity: Identity) -> None:
    """Raise ``CoveyError`` when we belong to no mesh, or when the mesh would be lost with us."""
    mesh = identity.member.mesh
    root = load_root_key(identity.home)
    if root is not None and root.public == mesh:
        raise LocalProtocolError(
            "this machine holds the mesh's root key: without it nobody can be revoked, and no "
            "admitter renewed",
            code="root-holder",
            hint="run `covey mesh backup FILE` here, `covey mesh restore FILE` elsewhere, and then "
            "remove root.key here",
        )


async def leave(identity: Identity, transport: Transport, admitters: Addresses) -> dict[str, Any]:
    """Tell the admitters, remove our membership durably, and return what a command prints.

    What goes wrong with an admitter is logged and hinders nothing.
    """
    check_may_leave(identity)
    member = identity.member
    told: list[PeerId] = []
    is_void = False
    with trio.move_on_after(TELL_WITHIN_S):
        for peer_id, addresses in admitters.items():
            answer = await _tell(transport, member, peer_id, addresses)
            told += [peer_id] if answer is not None else []
            is_void = answer is not None and answer.is_void
            if is_void:
                break
    remove_durably(identity.home / MEMBERSHIP_FILE)
    return {
        "peer": identity.peer_id,
        "mesh": peer_id_of(member.mesh),
        "told": told,
        "is_void": is_void,
    }


async def _tell(
    transport: Transport, member: Membership, peer_id: PeerId, addresses: list[str]
) -> LeaveReply | None:
    chain = member.certificate.encode(), member.issuer_certificate.encode()
    try:
        if peer_id not in transport.connected():
            await transport.dial(peer_id, addresses)
        answer = await ask(transport, peer_id, LeaveRequest(member.mesh, *chain))
        raise_refusal(answer)
    except CoveyError as error:
        log.info("admitter not told", extra={"peer": peer_id, "why": error.message})
        return None
    return answer if isinstance(answer, LeaveReply) else None


def from_ticket(member: Membership) -> Addresses:
    """The admitters that our ticket named."""
    found: Addresses = {}
    for text in member.bootstrap:
        place = PeerAddress.parse(text)
        found.setdefault(place.peer_id, []).append(place.address)
    return found
