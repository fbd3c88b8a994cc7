"""Joining a mesh: the joiner's side, and the admitter's, which trades tickets for certificates.

The admitter keeps a ticket's digest, not its secret. A ticket is used up, on disk, before its
certificate leaves; the same peer asking again, because the answer was lost, gets the same
certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from peer.durable import NotWrittenError
from peer.effects import Effects
from peer.identity import Identity, load_root_key
from peer.revocations import Revocations
from peer.tickets import TICKETS_FILE, Issued, TicketBook
from protocols.errors import (
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    StreamLostError,
    TransportError,
)
from protocols.join import (
    CODEC,
    JoinAnswer,
    JoinMessage,
    JoinRefusal,
    JoinReply,
    JoinRequest,
    LeaveReply,
    LeaveRequest,
    RenewRequest,
    check_member,
    membership_of,
)
from protocols.keys import PeerId, SigningKey, public_key_of
from protocols.limits import (
    JOIN_TIMEOUT_S,
    MAX_ADDRESSES,
    MAX_TICKET_GUESSES,
    MAX_TICKET_TTL_S,
    TICKET_GUESS_WINDOW_S,
)
from protocols.membership import (
    ADMITTER,
    AGGREGATOR,
    FILER,
    JOIN_PROTOCOL,
    OBSERVER,
    Certificate,
    Membership,
    check_known_roles,
    issue,
)
from protocols.ticket import SECRET_BYTES, Ticket, digest_of
from protocols.transport import Stream, Transport

log = logging.getLogger(__name__)

DEFAULT_TTL_S: Final = 3_600
NODE: Final = "node"  # a program; the other one is called as its role
CLOSE_WAIT_S: Final = 2.0  # a peer that does not answer the close is left to the transport
MAX_GUESSERS: Final = 4_096  # peers whose guesses are counted at once; the oldest is forgotten


async def join(
    transport: Transport, ticket: Ticket, key: SigningKey, effects: Effects, program: str = ""
) -> Membership:
    """Trade ``ticket`` for a membership at its admitter; ``transport`` must run and be ``key``'s.
    A ticket that is not for ``program`` (``NODE`` or ``AGGREGATOR``) is refused and stays good.

    May be repeated when the answer was lost: the admitter gives the same certificate. Raises
    ``Refused`` with the admitter's reason and hint, ``PeerUnreachableError``, another
    ``TransportError``, or ``RemoteProtocolError`` when the answer is not what the ticket promised.
    """
    if ticket.is_expired(effects.now_us()):
        raise _refusal("ticket-expired", "the ticket has expired")
    await transport.dial(ticket.admitter, list(ticket.addresses))
    try:
        request = JoinRequest(ticket.mesh, ticket.secret, program)
        answer = await ask(transport, ticket.admitter, request)
    finally:
        # The connection knows us as a stranger; the daemon's first hello wants a fresh one.
        with trio.move_on_after(CLOSE_WAIT_S, shield=True):
            await transport.disconnect(ticket.admitter)
    return membership_of(ticket, answer, key.public, effects.now_us())


async def ask(
    transport: Transport, admitter: PeerId, request: JoinRequest | RenewRequest | LeaveRequest
) -> JoinMessage:
    """Put one request to an admitter that is connected, and return its answer.

    Raises ``TransportError``, or ``RemoteProtocolError`` when the answer is none.
    """
    try:
        with trio.fail_after(JOIN_TIMEOUT_S):
            return await _ask(transport, admitter, request)
    except trio.TooSlowError as error:
        raise StreamLostError("the admitter did not answer", code="join-timeout") from error


async def _ask(transport: Transport, admitter: PeerId, request: JoinMessage) -> JoinMessage:
    stream = await transport.open_stream(admitter, JOIN_PROTOCOL)
    try:
        await stream.send(CODEC.encode([request]))
        await stream.finish()
        answer = _only(await stream.receive())
    finally:
        with trio.move_on_after(CLOSE_WAIT_S, shield=True):
            await stream.aclose()
    if isinstance(answer, (JoinRequest, RenewRequest, LeaveRequest)):
        raise RemoteProtocolError("the admitter answered with a request")
    return answer


class Admitter:
    """Issues tickets and trades them for certificates; every mesh has at least one.

    ``root`` is the mesh's root key where this peer holds it: only there can tickets make admitters,
    and only there does the first aggregator become the mesh's filer, so that there is one.
    """

    def __init__(
        self,
        identity: Identity,
        book: TicketBook,
        effects: Effects,
        root: SigningKey | None,
        revocations: Revocations,
    ) -> None:
        self._revocations = revocations
        self._identity = identity
        self._book = book
        self._effects = effects
        self._root = root
        self._guesses: dict[PeerId, list[float]] = {}
        self._parting: dict[PeerId, Callable[[], None]] = {}
        """Who was told that it is out, and what makes it so for us and our neighbours."""

    def serve(self, transport: Transport) -> None:
        """Answer ``/covey/join/1`` from now on."""
        transport.serve(JOIN_PROTOCOL, self._answer, before_hello=True)

    def ticket(
        self, roles: tuple[str, ...], addresses: tuple[str, ...], ttl_s: int = DEFAULT_TTL_S
    ) -> Ticket:
        """Return a new ticket for one peer, good for ``ttl_s`` seconds at these addresses of ours.

        Raises ``LocalProtocolError`` when we are no admitter, or for roles and times that can't be.
        """
        self._check_ticket(roles, addresses, ttl_s)
        now_us = self._effects.now_us()
        ticket = Ticket(
            version=1,
            mesh=self._identity.member.mesh,
            admitter_key=self._identity.key.public,
            addresses=addresses[:MAX_ADDRESSES],
            secret=self._effects.token(SECRET_BYTES),
            roles=tuple(sorted(set(roles))),
            expires_us=now_us + ttl_s * 1_000_000,
        )
        self._book.add(Issued(digest_of(ticket.secret), ticket.roles, ticket.expires_us), now_us)
        return ticket

    def _check_ticket(self, roles: tuple[str, ...], addresses: tuple[str, ...], ttl_s: int) -> None:
        check_known_roles(roles)
        if ADMITTER not in self._identity.member.roles:
            raise LocalProtocolError(
                "this peer is no admitter of its mesh",
                code="no-admitter",
                hint="ask for a ticket where `covey init` was run",
            )
        if ADMITTER in roles and self._root is None:
            raise LocalProtocolError(
                "only the mesh's root key makes admitters",
                code="no-root-key",
                hint="ask for this ticket where `covey init` was run",
            )
        if FILER in roles:
            raise LocalProtocolError(
                "no ticket makes a filer: a mesh has one, the first aggregator that joined",
                code="filer-ticket",
                hint="ask for a ticket with --role aggregator",
            )
        if not 0 < ttl_s <= MAX_TICKET_TTL_S:
            raise LocalProtocolError(
                f"a ticket lives 1 to {MAX_TICKET_TTL_S} seconds, not {ttl_s}", code="ticket-ttl"
            )
        if not addresses:
            raise LocalProtocolError(
                "a ticket needs an address at which this peer can be dialled",
                code="no-address",
                hint="start the daemon, or set [listen] addresses",
            )

    async def _answer(self, stream: Stream) -> None:
        """Answer one request; whatever is wrong with it ends this stream only."""
        answer: JoinAnswer | None = None
        try:
            with trio.fail_after(JOIN_TIMEOUT_S):
                request = _only(await stream.receive())
                try:
                    answer = self._respond(stream.peer_id, request)
                except Refused as refusal:
                    answer = _wire(refusal)
                await stream.send(CODEC.encode([answer]))
                await stream.finish()
                await stream.receive()  # the joiner's end, so that closing loses nothing
        except (TransportError, RemoteProtocolError, trio.TooSlowError) as error:
            log.info("join failed", extra={"peer": stream.peer_id, "why": str(error)})
        finally:
            if enforce := self._parting.pop(stream.peer_id, None):
                enforce()  # only now: it ends the connection that the answer took

    def _respond(self, peer_id: PeerId, request: JoinMessage) -> JoinAnswer:
        """Return the answer to a request; raise ``Refused`` with the reason if it is no."""
        if not isinstance(request, (JoinRequest, RenewRequest, LeaveRequest)):
            raise _refusal("join-order", "only a request opens a join")
        if request.mesh != self._identity.member.mesh:
            raise _refusal("wrong-mesh", "this peer admits to another mesh")
        if isinstance(request, LeaveRequest):
            return self._part(peer_id, request)
        if isinstance(request, RenewRequest):
            certificate = self._renew(peer_id, request)
        else:
            self._check_revoked(peer_id)
            certificate = self._certificate_for(peer_id, request)
        membership = self._identity.member
        chain = membership.certificate
        if certificate.issuer == membership.mesh:
            chain = certificate
        self._check_chain(certificate, chain)
        return JoinReply(certificate.encode(), chain.encode())

    def _renew(self, peer_id: PeerId, request: RenewRequest) -> Certificate:
        """Return a member's next certificate: the same roles for another term."""
        old = self._member_in(peer_id, request).certificate
        if ADMITTER in old.roles and self._root is None:
            raise Refused(
                "only the mesh's root key renews admitters",
                code="no-root-key",
                hint="the peer where `covey init` or `covey mesh restore` was run has it",
            )
        certificate = self._sign(old.peer, old.roles, limits=old.limits)
        log.info("member renewed", extra={"peer": peer_id, "roles": certificate.roles})
        return certificate

    def _part(self, peer_id: PeerId, request: LeaveRequest) -> LeaveReply:
        """Take a member's goodbye. With the root key its certificates are void from now on, but for
        an admitter's: whom it admitted would be out with it.
        """
        member = self._member_in(peer_id, request)
        is_void = self._root is not None and ADMITTER not in member.roles
        if is_void:
            try:
                enforce = self._revocations.revoke_soon(peer_id, self._effects.now_us())
            except NotWrittenError as error:  # then nobody else will hear that it left
                log.error("leaving not on disk", extra={"reason": error.message})
                is_void = False
            else:
                self._parting[peer_id] = enforce
        log.info("member left", extra={"peer": peer_id, "is_void": is_void})
        return LeaveReply(is_void)

    def _member_in(self, peer_id: PeerId, request: RenewRequest | LeaveRequest) -> Membership:
        """The member that a request comes from, by the certificate that it shows."""
        mesh, now_us = self._identity.member.mesh, self._effects.now_us()
        try:
            member = check_member(request, mesh, peer_id, now_us)
            self._revocations.check(member.certificate, member.issuer_certificate)
        except RemoteProtocolError as error:
            raise Refused(error.message, code=error.code, hint=error.hint) from error
        return member

    def _check_revoked(self, peer_id: PeerId) -> None:
        """Refuse a peer whose new certificate would be void, before its ticket is used up."""
        if self._revocations.is_barred(peer_id):
            raise Refused(
                f"{peer_id} was revoked",
                code="revoked",
                hint="join as a new peer: another state directory, a new ticket",
            )

    def _check_chain(self, certificate: Certificate, chain: Certificate) -> None:
        """Refuse to hand out a certificate that nobody would believe: an old one, or any if we
        were revoked ourselves.
        """
        try:
            self._revocations.check(certificate, chain)
        except RemoteProtocolError as error:
            raise Refused(error.message, code=error.code, hint=error.hint) from error

    def _certificate_for(self, peer_id: PeerId, request: JoinRequest) -> Certificate:
        self._check_guesses(peer_id)
        digest, now_us = digest_of(request.secret), self._effects.now_us()
        grant = self._book.get(digest)
        if grant is None:
            self._guesses.setdefault(peer_id, []).append(trio.current_time())
            raise _refusal("ticket-unknown", "this admitter issued no such ticket")
        if grant.certificate is not None:
            if grant.certificate.peer_id != peer_id:
                raise _refusal("ticket-used", "the ticket was used by another peer")
            return grant.certificate
        if now_us > grant.issued.expires_us:
            raise _refusal("ticket-expired", "the ticket has expired")
        _check_program(request.program, grant.issued.roles)
        certificate = self._issue(peer_id, grant.issued.roles)
        self._book.use(digest, certificate)
        log.info("member admitted", extra={"peer": peer_id, "roles": certificate.roles})
        return certificate

    def _issue(self, peer_id: PeerId, roles: tuple[str, ...]) -> Certificate:
        if AGGREGATOR in roles and self._root is not None and not self._has_filer(but=peer_id):
            roles = (*roles, FILER)
        return self._sign(public_key_of(peer_id), roles)

    def _has_filer(self, but: PeerId) -> bool:
        """Whether a ticket of ours made another peer a filer that was not put out since."""
        issuer = self._identity.member.certificate
        others = [filer for filer in self._book.filers() if filer.peer_id != but]
        return any(not self._revocations.holds(filer, issuer) for filer in others)

    def _sign(
        self, peer: bytes, roles: tuple[str, ...], limits: dict[str, int] | None = None
    ) -> Certificate:
        signer = self._identity.key
        if ADMITTER in roles:
            assert self._root is not None, "callers refuse what takes the root key where it is not"
            signer = self._root
        mesh, now_us = self._identity.member.mesh, self._effects.now_us()
        return issue(signer, mesh=mesh, peer=peer, roles=roles, now_us=now_us, limits=limits)

    def _check_guesses(self, peer_id: PeerId) -> None:
        """Refuse a peer that showed too many wrong secrets lately."""
        now = trio.current_time()
        recent = [at for at in self._guesses.pop(peer_id, []) if now - at < TICKET_GUESS_WINDOW_S]
        if recent:
            self._guesses[peer_id] = recent
        if len(recent) >= MAX_TICKET_GUESSES:
            raise Refused(
                f"{len(recent)} wrong tickets in {TICKET_GUESS_WINDOW_S} s",
                code="too-many-guesses",
                hint="wait a minute, then paste the whole ticket",
                retry_after_ms=TICKET_GUESS_WINDOW_S * 1_000,
            )
        while len(self._guesses) >= MAX_GUESSERS:
            del self._guesses[next(iter(self._guesses))]


def open_admitter(
    identity: Identity, effects: Effects, revocations: Revocations | None = None
) -> Admitter:
    """Return the admitter of an identity whose home this process owns."""
    book = TicketBook(identity.home / TICKETS_FILE, effects.now_us())
    known = revocations or Revocations.open(identity.home, identity.member.mesh, effects)
    return Admitter(identity, book, effects, load_root_key(identity.home), known)


def _only(frame: bytes | None) -> JoinMessage:
    messages = CODEC.decode(frame) if frame is not None else []
    if len(messages) != 1:
        raise RemoteProtocolError(f"a join with {len(messages)} messages", code="join-order")
    return messages[0]


def _refusal(code: str, reason: str) -> Refused:
    return Refused(reason, code=code, hint="ask the admitter's operator for a new ticket")


def _wire(refusal: Refused) -> JoinRefusal:
    return JoinRefusal(
        refusal.code, refusal.message, refusal.hint or "", refusal.retry_after_ms or 0
    )


def _check_program(program: str, roles: tuple[str, ...]) -> None:
    """Refuse a ticket whose roles the program that asks could not fill, before it is used up."""
    if program == NODE and AGGREGATOR in roles:
        raise Refused(
            "this ticket is for an aggregator",
            code="ticket-program",
            hint="the ticket is still good: covey-aggregator join",
        )
    if program == AGGREGATOR and not {AGGREGATOR, OBSERVER} & set(roles):
        raise Refused(
            "this ticket is for a node",
            code="ticket-program",
            hint="the ticket is still good: covey join",
        )
