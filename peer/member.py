"""What a daemon makes sure of before it starts: that it is a member, now."""

from __future__ import annotations

from peer.effects import Effects
from peer.identity import Identity
from peer.renewal import is_due, renew_by_root
from peer.revocations import Revocations
from protocols.membership import Membership, verify_chain


def check_membership(identity: Identity, effects: Effects) -> Membership:
    """Return our membership, its certificates verified and not revoked as far as we know; raise
    what ``Identity.member``, ``verify_chain`` or ``Revocations`` raises.
    """
    if is_due(identity.member, effects.now_us()):
        renew_by_root(identity, effects)  # where the root key lies, no certificate ever ends
    member = identity.member
    chain = member.certificate, member.issuer_certificate
    Revocations.open(identity.home, member.mesh, effects).check(*chain)
    verify_chain(member.mesh, *chain, effects.now_us())
    return member
