"""Messages of ``/covey/join/1``: a ticket's secret against a member certificate.

The joiner sends one request, the admitter one reply or refusal. Who the joiner is comes from the
secure channel; that the admitter is the one the ticket names, too.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols.errors import Refused, RemoteProtocolError
from protocols.membership import Certificate, Key, Membership, verify_chain
from protocols.ticket import Secret, Ticket
from protocols.wire import MessageCodec

Text = Annotated[str, Meta(max_length=512)]


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The joiner asks for membership of ``mesh`` and shows a ticket's secret."""

    mesh: Key
    secret: Secret


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


JoinMessage = JoinRequest | JoinReply | JoinRefusal
CODEC: Final[MessageCodec[JoinMessage]] = MessageCodec(JoinMessage)


def membership_of(
    ticket: Ticket, answer: JoinReply | JoinRefusal, joiner: bytes, now_us: int
) -> Membership:
    """Return the membership that an admitter's answer gives the peer whose public key is
    ``joiner``, everything verified.

    Raises ``Refused`` with the admitter's code, or ``RemoteProtocolError`` when the reply is not
    what the ticket promised.
    """
    if isinstance(answer, JoinRefusal):
        raise Refused(
            answer.reason,
            code=answer.code,
            hint=answer.hint or None,
            retry_after_ms=answer.retry_after_ms or None,
        )
    certificate = Certificate.decode(answer.certificate)
    issuer_certificate = Certificate.decode(answer.issuer_certificate)
    verify_chain(ticket.mesh, certificate, issuer_certificate, now_us)
    if certificate.peer != joiner or not set(ticket.roles) <= set(certificate.roles):
        raise RemoteProtocolError(
            "the admitter's certificate is not the one that the ticket promised",
            code="certificate-invalid",
        )
    bootstrap = tuple(f"{address}/p2p/{ticket.admitter}" for address in ticket.addresses)
    return Membership(certificate, issuer_certificate, bootstrap)
