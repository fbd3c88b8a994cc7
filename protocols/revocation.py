"""Who is out of a mesh: one list, signed by the root, that only ever grows in what it says.

An entry voids every certificate that a peer was issued up to a moment. A revocation's moment never
comes: that key is out for good. A peer that left by itself may come back with a certificate issued
later. A certificate falls with its issuer's: what a revoked admitter signed, and when, is not to be
believed. Of two lists the higher version holds; who holds the root key merges what both say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols import dagcbor
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey, pae, peer_id_of, verify
from protocols.limits import MAX_REVOCATIONS_BYTES, MAX_REVOKED
from protocols.membership import (
    CERTIFICATE_US,
    TOLERANCE_US,
    Certificate,
    Key,
    Signature,
    TimeUs,
    VersionOne,
    decode_fields,
    to_fields,
)

REVOCATIONS_TYPE: Final = "application/vnd.covey.revocations+cbor"
FOREVER_US: Final = (1 << 62) - 1
"""The moment of a revocation: no certificate is ever issued later."""

Counter = Annotated[int, Meta(ge=1, lt=1 << 53)]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True):
    """Certificates that ``peer`` was issued up to ``until_us`` are void."""

    peer: Key
    until_us: TimeUs


Entries = Annotated[tuple[Entry, ...], Meta(max_length=MAX_REVOKED)]


class RevocationList(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The root's statement of who is out of ``mesh``; ``version`` rises with each."""

    format: VersionOne
    mesh: Key
    version: Counter
    time_us: TimeUs
    peers: Entries
    signature: Signature

    @property
    def moments(self) -> dict[bytes, int]:
        """Up to when each peer's certificates are void, by public key."""
        return {entry.peer: entry.until_us for entry in self.peers}

    def payload(self) -> bytes:
        """The bytes that the root signs: all fields but the signature."""
        return dagcbor.encode(to_fields(self)[:-1])

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return dagcbor.encode(to_fields(self))

    @classmethod
    def decode(cls, encoded: bytes) -> RevocationList:
        """Return the list in ``encoded``, its form checked and its signature not; raise
        ``RemoteProtocolError``.
        """
        shown = decode_fields(cls, encoded, MAX_REVOCATIONS_BYTES)
        keys = [entry.peer for entry in shown.peers]
        if keys != sorted(set(keys)):
            raise RemoteProtocolError("revoked peers are not sorted and distinct")
        return shown

    def verify(self, mesh: bytes) -> None:
        """Check offline that the root of ``mesh`` said this; raise ``RemoteProtocolError``."""
        message = pae(REVOCATIONS_TYPE, self.payload())
        if self.mesh != mesh or not verify(mesh, message, self.signature):
            raise RemoteProtocolError(
                "the revocation list is not signed by this mesh's root",
                code="revocations-invalid",
            )


class Barred:
    """Whose certificates are void, ready to be asked often."""

    def __init__(self, moments: Mapping[bytes, int]) -> None:
        self._moments = dict(moments)
        self._peer_ids = {peer_id_of(key): until_us for key, until_us in moments.items()}

    def holds(self, certificate: Certificate, issuer_certificate: Certificate) -> bool:
        """Whether the list voids this chain: the member's certificate or its issuer's."""
        return bool(self._moments) and any(
            shown.not_before_us <= self._moments.get(shown.peer, -1)
            for shown in (certificate, issuer_certificate)
        )

    def check(self, certificate: Certificate, issuer_certificate: Certificate) -> None:
        """Raise ``RemoteProtocolError`` with code ``revoked`` if the list voids this chain."""
        if not self.holds(certificate, issuer_certificate):
            return
        peer, issuer = certificate.peer_id, issuer_certificate.peer_id
        if self.holds(certificate, certificate):
            what = f"the membership of {peer} was revoked"
            hint = "if that is a mistake, join as a new peer: another state directory, a new ticket"
        else:
            what = f"{issuer}, which admitted {peer}, was revoked"
            hint = "join again with a ticket of another admitter of this mesh"
        raise RemoteProtocolError(what, code="revoked", hint=hint)

    def is_barred(self, peer_id: PeerId, now_us: int) -> bool:
        """Whether even a certificate that this peer were issued now would be void."""
        return now_us <= self._peer_ids.get(peer_id, -1)


def signed_list(
    root: SigningKey, moments: Mapping[bytes, int], version: int, now_us: int
) -> RevocationList:
    """Return the list of ``moments`` signed by the root, without those whose every certificate has
    expired since.

    Raises ``LocalProtocolError`` with code ``too-many-revoked`` past ``MAX_REVOKED``.
    """
    kept = sorted(Entry(*entry) for entry in current(moments, now_us).items())
    if len(kept) > MAX_REVOKED:
        raise LocalProtocolError(
            f"a mesh keeps at most {MAX_REVOKED} revoked peers",
            code="too-many-revoked",
            hint="make a new mesh for the peers that are still welcome",
        )
    unsigned = RevocationList(1, root.public, version, now_us, tuple(kept), bytes(64))
    signature = root.sign(pae(REVOCATIONS_TYPE, unsigned.payload()))
    return msgspec.structs.replace(unsigned, signature=signature)


def current(moments: Mapping[bytes, int], now_us: int) -> dict[bytes, int]:
    """Return what of a list still voids a certificate that could be valid."""
    oldest_us = now_us - CERTIFICATE_US - 2 * TOLERANCE_US
    return {peer: until for peer, until in moments.items() if until >= oldest_us}


def merged(one: Mapping[bytes, int], other: Mapping[bytes, int]) -> dict[bytes, int]:
    """Return what both lists say: of each peer the later moment."""
    peers = one.keys() | other.keys()
    return {peer: max(one.get(peer, -1), other.get(peer, -1)) for peer in peers}
