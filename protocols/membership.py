"""Who belongs to a mesh, with which roles, and what each role may ask of a peer.

A mesh is named by its root public key. The root signs the certificates of admitters, admitters sign
those of members. Whoever knows the mesh's name verifies a certificate offline, given its issuer's
certificate beside it: two signatures and a look at the clock. Nothing here believes a peer id that
a message claims: callers compare it with the one that the secure channel proved.

Certificates are strict: a field or version that we do not know is refused, since it could be a
restriction.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from protocols import dagcbor
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey, pae, peer_id_of, verify
from protocols.limits import (
    CERTIFICATE_DAYS,
    CLOCK_TOLERANCE_S,
    MAX_ADDRESS_CHARS,
    MAX_ADDRESSES,
    MAX_CERTIFICATE_BYTES,
    MAX_CERTIFICATE_LIMITS,
    MAX_MEMBERSHIP_BYTES,
    MAX_ROLES,
)

ADMITTER: Final = "admitter"
WORKER: Final = "worker"
SUBMITTER: Final = "submitter"
AGGREGATOR: Final = "aggregator"
FILER: Final = "filer"
OBSERVER: Final = "observer"
ROLES: Final = (ADMITTER, WORKER, SUBMITTER, AGGREGATOR, FILER, OBSERVER)
DEFAULT_ROLES: Final = (ADMITTER, WORKER, SUBMITTER)
"""What the node that makes a mesh is, unless told otherwise."""

JOIN_PROTOCOL: Final = "/covey/join/1"
HELLO_PROTOCOL: Final = "/covey/hello/1"
SESSION_PROTOCOL: Final = "/covey/session/1"
FEED_PROTOCOL: Final = "/covey/feed/1"
ECHO_PROTOCOL: Final = "/covey/echo/1"
ADVERTS: Final = "adverts"
REVOCATIONS: Final = "revocations"

OFFER: Final = "offer"
ACKNOWLEDGEMENT: Final = "acknowledgement"
RECORD_BY_NAME: Final = "record.by-name"
"""A question for the bundle of a record whose CID the asker was told."""
DECISION: Final = "group.decision"
FILING: Final = ("issue.intent", "issue.filed")
TOMBSTONE: Final = "record.tombstone"
CHECKPOINT: Final = "state.checkpoint"
LOSS: Final = "feed.lost"
STATEMENTS: Final = (DECISION, *FILING, TOMBSTONE, CHECKPOINT, LOSS)
"""Kinds of records that are no observations but decide what all aggregators show."""

STRANGERS: Final = frozenset({JOIN_PROTOCOL, HELLO_PROTOCOL})
"""Protocols that come before any role is known."""

ALLOWED: Final[dict[str, frozenset[str]]] = {
    SESSION_PROTOCOL: frozenset({SUBMITTER}),
    OFFER: frozenset({SUBMITTER}),
    FEED_PROTOCOL: frozenset({AGGREGATOR, OBSERVER}),
    RECORD_BY_NAME: frozenset({AGGREGATOR, OBSERVER, SUBMITTER}),
    ECHO_PROTOCOL: frozenset({WORKER}),
    ACKNOWLEDGEMENT: frozenset({AGGREGATOR}),
    ADVERTS: frozenset(ROLES),
    REVOCATIONS: frozenset(ROLES),
    DECISION: frozenset({AGGREGATOR, FILER}),
    **dict.fromkeys(FILING, frozenset({FILER})),
    TOMBSTONE: frozenset({AGGREGATOR}),
    CHECKPOINT: frozenset({AGGREGATOR}),
    LOSS: frozenset({AGGREGATOR}),
}
"""The one table of who may do what: whoever has one of these roles may open the protocol to us,
send the message, have the topic's message passed on, or have records of the kind counted."""

WRONG_MESH: Final = "wrong-mesh"
"""The code of what a peer of another mesh is told."""

CERTIFICATE_TYPE: Final = "application/vnd.covey.certificate+cbor"
CERTIFICATE_US: Final = CERTIFICATE_DAYS * 86_400_000_000
TOLERANCE_US: Final = CLOCK_TOLERANCE_S * 1_000_000

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
VersionOne = Annotated[int, Meta(ge=1, le=1)]
TimeUs = Annotated[int, Meta(ge=0, lt=1 << 62)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
Roles = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_ROLES)]
Limits = Annotated[
    dict[Name, Annotated[int, Meta(ge=0, lt=1 << 53)]], Meta(max_length=MAX_CERTIFICATE_LIMITS)
]
Address = Annotated[str, Meta(pattern=r"^/[!-~]+\Z", max_length=MAX_ADDRESS_CHARS)]
Addresses = Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
PeerAddress = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS + 64)]  # an Address and /p2p/PEER

S = TypeVar("S", bound=msgspec.Struct)


def may(roles: tuple[str, ...], protocol: str) -> bool:
    """Tell whether a member with these roles may do what the table calls ``protocol``; never what
    it does not name.
    """
    return not ALLOWED.get(protocol, frozenset()).isdisjoint(roles)


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The issuer's statement that ``peer`` is a member of ``mesh`` with these roles, between two
    moments.

    Keys are Ed25519 public keys. Roles are sorted; one that we do not know grants nothing.
    """

    version: VersionOne
    mesh: Key
    peer: Key
    roles: Roles
    limits: Limits
    not_before_us: TimeUs
    not_after_us: TimeUs
    issuer: Key
    signature: Signature

    @property
    def peer_id(self) -> PeerId:
        """The member's peer id."""
        return peer_id_of(self.peer)

    @property
    def half_life_us(self) -> int:
        """The moment at which its member should ask for the next one."""
        return (self.not_before_us + self.not_after_us) // 2

    def payload(self) -> bytes:
        """The bytes that the issuer signs: all fields but the signature."""
        return dagcbor.encode(to_fields(self)[:-1])

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return dagcbor.encode(to_fields(self))

    @classmethod
    def decode(cls, encoded: bytes) -> Certificate:
        """Return the certificate in ``encoded``, its form checked and its signature not; raise
        ``RemoteProtocolError``.
        """
        certificate = decode_fields(cls, encoded, MAX_CERTIFICATE_BYTES)
        check_roles(certificate.roles)
        return certificate


def issue(
    signer: SigningKey,
    *,
    mesh: bytes,
    peer: bytes,
    roles: tuple[str, ...],
    now_us: int,
    limits: dict[str, int] | None = None,
) -> Certificate:
    """Return a certificate for ``peer`` signed by an admitter or the root, valid for
    ``CERTIFICATE_DAYS`` from now.

    Raises ``LocalProtocolError`` for a role that does not exist.
    """
    check_known_roles(roles)
    unsigned = Certificate(
        version=1,
        mesh=mesh,
        peer=peer,
        roles=tuple(sorted(set(roles))),
        limits=limits or {},
        not_before_us=now_us,
        not_after_us=now_us + CERTIFICATE_US,
        issuer=signer.public,
        signature=bytes(64),
    )
    signature = signer.sign(pae(CERTIFICATE_TYPE, unsigned.payload()))
    return msgspec.structs.replace(unsigned, signature=signature)


def verify_chain(
    mesh: bytes, certificate: Certificate, issuer_certificate: Certificate, now_us: int
) -> None:
    """Check offline that ``certificate`` makes its peer a member of ``mesh`` now, give or take
    ``CLOCK_TOLERANCE_S``: time first, then what ``verify_signatures`` checks.

    Either the root signed it (then it is its own issuer certificate), or an admitter whose shown
    certificate the root signed. Raises ``RemoteProtocolError`` with code ``wrong-mesh``,
    ``certificate-expired``, ``certificate-early`` or ``certificate-invalid``.
    """
    check_current(mesh, certificate, issuer_certificate, now_us)
    verify_signatures(mesh, certificate, issuer_certificate)


def verify_signatures(
    mesh: bytes, certificate: Certificate, issuer_certificate: Certificate
) -> None:
    """Check that this chain made its peer a member of ``mesh`` at some time; raise
    ``RemoteProtocolError`` with code ``wrong-mesh`` or ``certificate-invalid``.
    """
    _check_mesh(mesh, certificate, issuer_certificate)
    _check_signature(issuer_certificate, mesh)
    if certificate == issuer_certificate:
        return
    if ADMITTER not in issuer_certificate.roles:
        raise _invalid("its issuer is no admitter")
    _check_signature(certificate, issuer_certificate.peer)


def check_current(
    mesh: bytes, certificate: Certificate, issuer_certificate: Certificate, now_us: int
) -> None:
    """The part of ``verify_chain`` that costs no signature check: mesh and time, for a chain that
    was verified before.
    """
    _check_mesh(mesh, certificate, issuer_certificate)
    for shown in (certificate, issuer_certificate):
        _check_time(shown, now_us)


class Membership(msgspec.Struct, frozen=True):
    """What makes a peer a member: its certificate, its issuer's beside it, and where it first found
    the mesh.

    An admitter's own certificate is its issuer certificate too.
    """

    certificate: Certificate
    issuer_certificate: Certificate
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs that end in ``/p2p/PEER``, as the ticket gave them."""

    @property
    def mesh(self) -> bytes:
        """The mesh's name, its root public key."""
        return self.certificate.mesh

    @property
    def roles(self) -> tuple[str, ...]:
        """Our roles in it."""
        return self.certificate.roles

    @property
    def ends_us(self) -> int:
        """The moment from which nobody believes it any more: an issuer's end is its members'."""
        return min(self.certificate.not_after_us, self.issuer_certificate.not_after_us)

    @property
    def renew_us(self) -> int:
        """The moment at which to ask for the next one."""
        return min(self.certificate.half_life_us, self.issuer_certificate.half_life_us)

    def encode(self) -> bytes:
        """Return the canonical bytes of ``membership.cbor``."""
        chain = (self.certificate.encode(), self.issuer_certificate.encode())
        return dagcbor.encode(to_fields(_StoredMembership(1, *chain, self.bootstrap)))

    @classmethod
    def decode(cls, encoded: bytes) -> Membership:
        """Return the membership in ``encoded``, its signatures unchecked; raise
        ``RemoteProtocolError``.
        """
        stored = decode_fields(_StoredMembership, encoded, MAX_MEMBERSHIP_BYTES)
        return cls(
            Certificate.decode(stored.certificate),
            Certificate.decode(stored.issuer_certificate),
            stored.bootstrap,
        )


class _StoredMembership(msgspec.Struct, frozen=True, array_like=True):
    version: VersionOne
    certificate: bytes
    issuer_certificate: bytes
    bootstrap: Annotated[tuple[PeerAddress, ...], Meta(max_length=MAX_ADDRESSES)]


def advert_topic(mesh: bytes) -> str:
    """The gossip topic of a mesh's adverts."""
    return f"covey/{peer_id_of(mesh)}/{ADVERTS}"


def revocation_topic(mesh: bytes) -> str:
    """The gossip topic of a mesh's revocation list."""
    return f"covey/{peer_id_of(mesh)}/{REVOCATIONS}"


def check_known_roles(roles: tuple[str, ...]) -> None:
    """Raise ``LocalProtocolError`` unless there is a role and every one exists."""
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise LocalProtocolError(
            f"there is no role {', '.join(unknown)!r}" if unknown else "a member needs a role",
            code="unknown-role",
            hint=f"roles are {', '.join(ROLES)}",
        )


def check_roles(roles: tuple[str, ...]) -> None:
    """Raise ``RemoteProtocolError`` unless ``roles`` are sorted and distinct, so that one set has
    one encoding.
    """
    if list(roles) != sorted(set(roles)):
        raise RemoteProtocolError("roles are not sorted and distinct")


def to_fields(struct: msgspec.Struct) -> list[Any]:
    """Return a positional struct as the list that the strict codec takes."""
    return msgspec.to_builtins(struct, builtin_types=(bytes,))


def decode_fields(kind: type[S], encoded: bytes, max_bytes: int) -> S:
    """Decode strict DAG-CBOR to a positional struct; raise ``RemoteProtocolError`` on any other
    bytes.
    """
    try:
        return msgspec.convert(
            dagcbor.decode(encoded, max_bytes=max_bytes), type=kind, builtin_types=(bytes,)
        )
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"not a valid {kind.__name__.strip('_')}: {error}") from error


def _check_mesh(mesh: bytes, *chain: Certificate) -> None:
    if any(shown.mesh != mesh for shown in chain):
        raise RemoteProtocolError(
            "the certificate is for another mesh",
            code=WRONG_MESH,
            hint="join this mesh with a ticket of one of its admitters",
        )


def _check_time(certificate: Certificate, now_us: int) -> None:
    if now_us > certificate.not_after_us + TOLERANCE_US:
        hours = (now_us - certificate.not_after_us) // 3_600_000_000
        raise RemoteProtocolError(
            f"the certificate of {certificate.peer_id} expired {hours} hours ago",
            code="certificate-expired",
            hint="`covey join` again with a new ticket, unless this machine's clock is wrong",
        )
    if now_us < certificate.not_before_us - TOLERANCE_US:
        raise RemoteProtocolError(
            "the certificate is not valid yet",
            code="certificate-early",
            hint="check this machine's clock: it is over 10 minutes behind the admitter's",
        )


def _check_signature(certificate: Certificate, issuer: bytes) -> None:
    message = pae(CERTIFICATE_TYPE, certificate.payload())
    if certificate.issuer != issuer or not verify(issuer, message, certificate.signature):
        raise _invalid("its signature is not its issuer's")


def _invalid(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"the certificate is invalid: {why}",
        code="certificate-invalid",
        hint="join again with a ticket of one of this mesh's admitters",
    )
