"""Messages of ``/covey/join/1``: a ticket's secret against a member certificate, an old certificate
against a new one, and goodbye.

The joiner or member sends one request, the admitter one reply or refusal. Who the joiner is comes
from the secure channel; that the admitter is the one the ticket names, too.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols.errors import Refused, RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import MAX_CERTIFICATE_BYTES
from protocols.membership import Certificate, Key, Membership, verify_chain
from protocols.ticket import Secret, Ticket
from protocols.wire import MessageCodec

Text = Annotated[str, Meta(max_length=512)]
CertificateBytes = Annotated[bytes, Meta(max_length=MAX_CERTIFICATE_BYTES)]


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The joiner asks for membership of ``mesh``, shows a ticket's secret, and says which program
    will use the certificate: ``node`` or ``aggregator``; empty from those who do not say.
    """

    mesh: Key
    secret: Secret
    program: Text = ""


class JoinReply(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The joiner's certificate, and the admitter's own, which the root signed."""

    certificate: bytes
    issuer_certificate: bytes


class JoinRefusal(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The admitter's no: why, and what to do."""

    code: Text
    reason: Text
    hint: Text = ""
    retry_after_ms: Annotated[int, Meta(ge=0)] = 0


class RenewRequest(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A member asks for its next certificate and shows the present one; a reply or refusal
    follows.
    """

    mesh: Key
    certificate: CertificateBytes
    issuer_certificate: CertificateBytes


class LeaveRequest(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A member says that it leaves and that its certificate need not count any more."""

    mesh: Key
    certificate: CertificateBytes
    issuer_certificate: CertificateBytes


class LeaveReply(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The admitter has heard it; ``is_void`` if it could void the certificate everywhere."""

    is_void: bool


JoinAnswer = JoinReply | JoinRefusal | LeaveReply
JoinMessage = JoinRequest | RenewRequest | LeaveRequest | JoinAnswer
CODEC: Final[MessageCodec[JoinMessage]] = MessageCodec(JoinMessage)


def membership_of(ticket: Ticket, answer: JoinMessage, joiner: bytes, now_us: int) -> Membership:
    """Return the membership that an admitter's answer gives the peer whose public key is
    ``joiner``, everything verified.

    Raises ``Refused`` with the admitter's code, or ``RemoteProtocolError`` when the reply is not
    what the ticket promised.
    """
    certificate, issuer_certificate = _chain_in(answer)
    verify_chain(ticket.mesh, certificate, issuer_certificate, now_us)
    if certificate.peer != joiner or not set(ticket.roles) <= set(certificate.roles):
        raise RemoteProtocolError(
            "the admitter's certificate is not the one that the ticket promised",
            code="certificate-invalid",
        )
    bootstrap = tuple(f"{address}/p2p/{ticket.admitter}" for address in ticket.addresses)
    return Membership(certificate, issuer_certificate, bootstrap)


def renewed(member: Membership, answer: JoinMessage, now_us: int) -> Membership:
    """Return the membership that follows ``member``, everything verified; raise as
    ``membership_of`` does.
    """
    certificate, issuer_certificate = _chain_in(answer)
    verify_chain(member.mesh, certificate, issuer_certificate, now_us)
    old = member.certificate
    if certificate.peer != old.peer or certificate.roles != old.roles:
        raise RemoteProtocolError(
            "the renewed certificate is not like the old one", code="certificate-invalid"
        )
    return Membership(certificate, issuer_certificate, member.bootstrap)


def check_member(
    request: RenewRequest | LeaveRequest, mesh: bytes, peer: PeerId, now_us: int
) -> Membership:
    """Return the membership that a request shows for ``peer``, the other end of the secure channel;
    raise ``RemoteProtocolError`` with code ``wrong-peer`` or one of the certificate's.
    """
    certificate = Certificate.decode(request.certificate)
    issuer_certificate = Certificate.decode(request.issuer_certificate)
    if certificate.peer_id != peer:
        raise RemoteProtocolError("the certificate shown is another peer's", code="wrong-peer")
    verify_chain(mesh, certificate, issuer_certificate, now_us)
    return Membership(certificate, issuer_certificate)


def _chain_in(answer: JoinMessage) -> tuple[Certificate, Certificate]:
    """The certificates in a reply; raise the ``Refused`` that it may be instead."""
    raise_refusal(answer)
    if not isinstance(answer, JoinReply):
        raise RemoteProtocolError(f"the admitter answered with a {type(answer).__name__}")
    return Certificate.decode(answer.certificate), Certificate.decode(answer.issuer_certificate)


def raise_refusal(answer: JoinMessage) -> None:
    """Raise ``Refused`` if that is what an admitter's answer is."""
    if isinstance(answer, JoinRefusal):
        raise Refused(
            answer.reason,
            code=answer.code,
            hint=answer.hint or None,
            retry_after_ms=answer.retry_after_ms or None,
        )
