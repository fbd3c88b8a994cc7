"""Whose statements count: those of feeds that show a certificate with the role.

Decisions about groups, the numbers of issues and tombstones for others' records rule what every
aggregator shows, so a member that has no such role must not be able to make an issue or a record go
away. Each aggregator records its certificate before it states anything. Whether a statement counts
is thus a function of the records, whatever their order, and stays so when the certificate has
expired or its owner was revoked: what was decided while somebody held the role is not undone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from protocols.errors import RemoteProtocolError
from protocols.membership import Certificate, may, verify_signatures

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
        self._roles[feed].update(shown_roles(self._mesh, feed, attributes))

    def may_state(self, feed: bytes, kind: str) -> bool:
        """Say whether statements of this kind count when they come from this feed."""
        return may(tuple(self._roles.get(feed, ())), kind)


def shown_roles(mesh: bytes, feed: bytes, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the roles of the certificate in a record of ``CERTIFICATE_KIND``; raise
    ``RemoteProtocolError`` unless it is ``feed``'s and verified.
    """
    certificate, issuer_certificate = (
        _certificate(attributes, name) for name in ("certificate", "issuer_certificate")
    )
    verify_signatures(mesh, certificate, issuer_certificate)
    if certificate.peer != feed:
        raise RemoteProtocolError("a feed shows another peer's certificate")
    return certificate.roles


def mesh_of(attributes: Mapping[str, Any]) -> bytes:
    """Return the mesh that the certificate in such a record names; nothing is verified."""
    return _certificate(attributes, "certificate").mesh


def _certificate(attributes: Mapping[str, Any], name: str) -> Certificate:
    encoded = attributes.get(name)
    if not isinstance(encoded, bytes):
        raise RemoteProtocolError(f"a record of kind {CERTIFICATE_KIND} has no {name}")
    return Certificate.decode(encoded)
