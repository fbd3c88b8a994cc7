"""What a peer says it has: hardware as measured, models, addresses; signed, and dated by boot and
sequence instead of a clock.

An advert travels with its author's certificate and the issuer's, so that whoever learns it from a
third peer can trust it without ever having met the author. Its lifetime counts from receipt; a
relay passes on only what is left of it, so that a peer that is gone is forgotten everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey, pae, peer_id_of, verify
from protocols.limits import (
    ADVERT_LIFETIME_S,
    MAX_ADVERT_BYTES,
    MAX_ADVERT_MODELS,
    MAX_TOLERANCE,
    MAX_TOLERANCES,
)
from protocols.membership import (
    Addresses,
    Certificate,
    Key,
    Membership,
    Roles,
    Signature,
    VersionOne,
    check_current,
    check_roles,
    decode_fields,
    verify_chain,
)

ADVERT_TYPE: Final = "application/vnd.covey.advert+cbor"
LIFETIME_MS: Final = ADVERT_LIFETIME_S * 1_000

Counter = Annotated[int, Meta(ge=0, lt=1 << 53)]
InstanceId = Annotated[bytes, Meta(max_length=16)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Word = Annotated[str, Meta(min_length=1, max_length=32)]
Precisions = Annotated[tuple[Word, ...], Meta(max_length=8)]
Tolerance = Annotated[float, Meta(ge=0, le=MAX_TOLERANCE)]
Tolerances = Annotated[dict[Word, Tolerance], Meta(max_length=MAX_TOLERANCES)]


class ModelOffer(msgspec.Struct, frozen=True, array_like=True):
    """A model that its author can run, by name and exactly by CID."""

    name: ModelName
    cid: CID
    kind: Word
    precisions: Precisions
    dimension: Counter = 0
    """Length of an embedding; 0 for kinds that have none."""
    tolerances: Tolerances = {}
    """By precision, how far two outputs of one input may be apart, as the model's manifest declares
    it; empty from an older covey.
    """
    backend: Annotated[str, Meta(max_length=32)] = ""
    """``openai`` for what a server behind the author has by that server's word, ``cid`` naming only
    what was said; empty for files that ``cid`` pins, and from an older covey.
    """


class Advert(msgspec.Struct, frozen=True, array_like=True):
    """One statement of a peer about itself. Later fields are appended; unknown ones are ignored."""

    version: VersionOne
    peer: Key
    boot: Counter
    sequence: Counter
    lifetime_ms: Annotated[int, Meta(ge=1, le=LIFETIME_MS)]
    addresses: Addresses
    roles: Roles
    hardware: CID | None
    capabilities: dict[str, Any]
    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=MAX_ADVERT_MODELS)]
    software: Annotated[str, Meta(max_length=64)]
    instance: InstanceId = b""
    """Drawn by lot at each start of the author's process; empty from an older covey."""
    rival: InstanceId = b""
    """Another instance of the same key, of which the author has seen an advert."""
    sandbox: Annotated[str, Meta(max_length=32)] = ""
    """The level to which its runners are confined, see ``docs/sandbox.md``; empty from an older
    covey and from peers without runners.
    """

    @property
    def peer_id(self) -> PeerId:
        """Its author."""
        return peer_id_of(self.peer)

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands among the adverts of its author."""
        return self.boot, self.sequence

    def encode(self) -> bytes:
        """Return the canonical bytes that its author signs."""
        return dagcbor.encode(msgspec.to_builtins(self, builtin_types=(bytes, CID)))


class SignedAdvert(msgspec.Struct, frozen=True):
    """An advert as it travels: its exact bytes, its author's signature, and the certificates that
    make the author a member.
    """

    payload: bytes
    signature: bytes
    certificate: Certificate
    issuer_certificate: Certificate
    advert: Advert
    """What ``payload`` says."""

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        chain = [self.certificate.encode(), self.issuer_certificate.encode()]
        return dagcbor.encode([1, self.payload, self.signature, *chain])

    @classmethod
    def decode(cls, encoded: bytes) -> SignedAdvert:
        """Return the advert in ``encoded``, its form checked and its signatures not; raise
        ``RemoteProtocolError``.
        """
        parts = decode_fields(_Parts, encoded, MAX_ADVERT_BYTES)
        advert = decode_fields(Advert, parts.payload, MAX_ADVERT_BYTES)
        check_roles(advert.roles)
        return cls(
            payload=parts.payload,
            signature=parts.signature,
            certificate=Certificate.decode(parts.certificate),
            issuer_certificate=Certificate.decode(parts.issuer_certificate),
            advert=advert,
        )

    def verify(self, mesh: bytes, now_us: int, *, is_chain_known: bool = False) -> None:
        """Check that a member of ``mesh`` said this; raise ``RemoteProtocolError``.

        ``is_chain_known`` skips the signatures of a chain that the caller has verified before.
        """
        check = check_current if is_chain_known else verify_chain
        check(mesh, self.certificate, self.issuer_certificate, now_us)
        if self.advert.peer != self.certificate.peer:
            raise RemoteProtocolError("the certificate beside the advert is not its author's")
        if not set(self.advert.roles) <= set(self.certificate.roles):
            raise RemoteProtocolError("the advert claims a role that its author does not have")
        self.verify_author()

    def verify_author(self) -> None:
        """Check that whoever has its author's key said this; raise ``RemoteProtocolError``."""
        message = pae(ADVERT_TYPE, self.payload)
        if not verify(self.advert.peer, message, self.signature):
            raise RemoteProtocolError("the advert's signature is not its author's")


class _Parts(msgspec.Struct, frozen=True, array_like=True):
    version: VersionOne
    payload: bytes
    signature: Signature
    certificate: bytes
    issuer_certificate: bytes


def sign_advert(key: SigningKey, advert: Advert, membership: Membership) -> SignedAdvert:
    """Return ``advert`` signed by its author; raise ``LocalProtocolError`` if it would be over
    ``MAX_ADVERT_BYTES``.
    """
    payload = advert.encode()
    signed = SignedAdvert(
        payload=payload,
        signature=key.sign(pae(ADVERT_TYPE, payload)),
        certificate=membership.certificate,
        issuer_certificate=membership.issuer_certificate,
        advert=advert,
    )
    size = len(signed.encode())
    if size > MAX_ADVERT_BYTES:
        raise LocalProtocolError(
            f"the advert has {size} bytes, over the limit of {MAX_ADVERT_BYTES}",
            code="advert-too-large",
            hint="offer fewer models",
            got=size,
        )
    return signed


def supersedes(new: Advert, old: Advert | None) -> bool:
    """Whether ``new`` replaces ``old`` of the same author: a later boot, or a later sequence of the
    same boot.
    """
    return old is None or new.order > old.order
