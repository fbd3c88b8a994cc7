"""Whose statements count: those of feeds that show a certificate with the role.

Decisions about groups, the numbers of issues and tombstones for others' records rule what every
aggregator shows, so a member that has no such role must not be able to make an issue or a record go
away. Each peer records its certificate, an aggregator before it states anything. Whether a
statement counts is thus a function of the records, whatever their order, and stays so when the
certificate has expired or its owner was revoked: what was decided while somebody held the role is
not undone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from protocols.errors import RemoteProtocolError
from protocols.membership import Certificate, Membership, may, verify_signatures
from protocols.record import Record, block

CERTIFICATE_KIND: Final = "member.certificate"
CHAIN: Final = ("certificate", "issuer_certificate")
"""The attributes of a record of that kind."""


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

    def stating(self, kind: str) -> list[bytes]:
        """Return the feeds whose statements of this kind count, sorted."""
        return sorted(feed for feed in self._roles if self.may_state(feed, kind))

    def may_state(self, feed: bytes, kind: str) -> bool:
        """Say whether statements of this kind count when they come from this feed."""
        return may(tuple(self._roles.get(feed, ())), kind)


def shown_roles(mesh: bytes, feed: bytes, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the roles of the certificate in a record of ``CERTIFICATE_KIND``; raise
    ``RemoteProtocolError`` unless it is ``feed``'s and verified.
    """
    chain = shown_chain(feed, attributes)
    verify_signatures(mesh, *chain)
    return chain[0].roles


def shown_chain(feed: bytes, attributes: Mapping[str, Any]) -> tuple[Certificate, Certificate]:
    """Return the certificate in a record of ``CERTIFICATE_KIND`` and its issuer's, no signature of
    which was checked; raise ``RemoteProtocolError`` unless the former is ``feed``'s.
    """
    certificate, issuer_certificate = (_certificate(attributes, name) for name in CHAIN)
    if certificate.peer != feed:
        raise RemoteProtocolError("a feed shows another peer's certificate")
    return certificate, issuer_certificate


def shown_record(member: Membership) -> Record:
    """Return the record by which a member shows its certificate: always the same one."""
    return block(member.certificate.peer, CERTIFICATE_KIND, chain_attributes(member))


def chain_attributes(member: Membership) -> dict[str, bytes]:
    """Return the attributes of that record."""
    chain = member.certificate.encode(), member.issuer_certificate.encode()
    return dict(zip(CHAIN, chain, strict=True))


def _certificate(attributes: Mapping[str, Any], name: str) -> Certificate:
    encoded = attributes.get(name)
    if not isinstance(encoded, bytes):
        raise RemoteProtocolError(f"a record of kind {CERTIFICATE_KIND} has no {name}")
    return Certificate.decode(encoded)
