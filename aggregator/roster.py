"""Whose statements count: those of feeds that show a certificate with the role.

Decisions about groups and the numbers of issues rule what every aggregator shows, so a member that
has no such role must not be able to make an issue go away. Each aggregator records its certificate
before it states anything. Whether a statement counts is thus a function of the records, whatever
their order, and stays so when the certificate has expired or its owner was revoked: what was
decided while somebody held the role is not undone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from peer.recorder import Recorder
from protocols.errors import RemoteProtocolError
from protocols.membership import Certificate, Membership, may, verify_signatures

CERTIFICATE_KIND: Final = "member.certificate"


class Roster:
    """The roles that the authors of feeds have shown, in one mesh."""

    def __init__(self, mesh: bytes) -> None:
        self._mesh = mesh
        self._roles: dict[bytes, set[str]] = defaultdict(set)

    def add(self, feed: bytes, attributes: Mapping[str, Any]) -> None:
        """Take in a certificate that a feed shows; raise ``RemoteProtocolError`` unless it is its
        author's and verified.
        """
        certificate, issuer_certificate = (
            _certificate(attributes, name) for name in ("certificate", "issuer_certificate")
        )
        verify_signatures(self._mesh, certificate, issuer_certificate)
        if certificate.peer != feed:
            raise RemoteProtocolError("a feed shows another peer's certificate")
        self._roles[feed].update(certificate.roles)

    def may_state(self, feed: bytes, kind: str) -> bool:
        """Say whether statements of this kind count when they come from this feed."""
        return may(tuple(self._roles.get(feed, ())), kind)


async def show_certificate(recorder: Recorder, member: Membership) -> None:
    """Record our certificate, once, so that what we state counts everywhere."""
    attributes = {
        "certificate": member.certificate.encode(),
        "issuer_certificate": member.issuer_certificate.encode(),
    }
    await recorder.block(CERTIFICATE_KIND, attributes)


def _certificate(attributes: Mapping[str, Any], name: str) -> Certificate:
    encoded = attributes.get(name)
    if not isinstance(encoded, bytes):
        raise RemoteProtocolError(f"a record of kind {CERTIFICATE_KIND} has no {name}")
    return Certificate.decode(encoded)
