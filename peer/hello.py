"""Hello: before two connected peers serve each other anything, each proves that it is a member.

Whoever dialled speaks first; when both dial at once there are two hellos, and both count. A hello
that fails closes the connection. What is learned on the way: certificates, adverts of everybody the
other side knows, and how far the other side saw us, so that a peer which lost its disk continues
above what it signed before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from peer.directory import Directory
from peer.effects import Effects
from peer.hello_stream import expect_end, receive, refuse, send, unexpected
from peer.identity import Identity
from peer.instance import Instance
from protocols.advert import LIFETIME_MS, SignedAdvert
from protocols.clock import Reading, check_clocks
from protocols.errors import (
    CoveyError,
    RemoteProtocolError,
    StreamLostError,
    TransportError,
)
from protocols.hello import (
    ANOTHER_INSTANCE,
    FEATURES,
    MAX_TEXT_CHARS,
    VERSIONS,
    Hello,
    HelloAdverts,
    HelloRefusal,
    HelloReply,
    Introduction,
    RelayedAdvert,
    Standing,
    check_introduction,
    common_version,
    pages,
    refused,
)
from protocols.keys import PeerId
from protocols.limits import (
    MAX_ADDRESSES,
    MAX_BOOT_LEAP,
    MAX_HELLO_PAGES,
    STRANGER_GRACE_S,
    STRANGER_PERIOD_S,
)
from protocols.membership import HELLO_PROTOCOL, WRONG_MESH, Certificate, Membership
from protocols.transport import Stream, Transport

log = logging.getLogger(__name__)

CLOSE_WAIT_S: Final = 2.0  # a peer that takes no close is left to the transport

MetCallback = Callable[[PeerId], None]
BehindCallback = Callable[[Standing], None]


@dataclass(frozen=True, slots=True)
class Own:
    """What a greeter says of its own peer."""

    identity: Identity
    addresses: Callable[[], tuple[str, ...]]
    """Where others may dial us."""
    instance: Instance
    place: Callable[[], tuple[int, int]]
    """Epoch and next sequence of our feed, now."""
    seen_in_feeds: Callable[[PeerId], Standing] = lambda _peer: Standing()
    """How far the feeds that we hold show another peer."""

    def standing(self) -> Standing:
        """Our boot and place as we believe them to be."""
        return Standing(self.identity.boot, *self.place())


class Greeter:
    """Says and answers hello; admits whom it verified to the transport and to the directory."""

    def __init__(
        self, transport: Transport, directory: Directory, own: Own, effects: Effects
    ) -> None:
        self._transport = transport
        self._directory = directory
        self._own = own
        self._effects = effects
        self._on_met: list[MetCallback] = []
        self._on_behind: list[BehindCallback] = []
        self._strangers_since: dict[PeerId, float] = {}
        self._met: set[PeerId] = set()
        self._clocks: dict[PeerId, int] = {}
        """By how much the clocks of connected peers are ahead of ours, in microseconds."""
        transport.serve(HELLO_PROTOCOL, self._answer, before_hello=True)
        transport.on_connection(self._connection_changed)

    def on_met(self, callback: MetCallback) -> None:
        """Call ``callback(peer)`` when both sides have verified and admitted each other; more than
        once if both dialled.
        """
        self._on_met.append(callback)

    def on_behind(self, callback: BehindCallback) -> None:
        """Call ``callback(seen)`` when a neighbour saw our boot or feed further than we are, before
        ``on_met``.
        """
        self._on_behind.append(callback)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close connections on which nobody said hello in ``STRANGER_GRACE_S``, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(STRANGER_PERIOD_S)
            latest = trio.current_time() - STRANGER_GRACE_S
            for peer_id, since in list(self._strangers_since.items()):
                if since <= latest and not self._transport.is_admitted(peer_id):
                    log.info("no hello", extra={"peer": peer_id})
                    await self._transport.disconnect(peer_id)

    async def connect(self, peer_id: PeerId, addresses: list[str]) -> None:
        """Dial a peer and say hello; when it returns, each serves the other.

        Raises ``PeerUnreachableError``, ``Refused`` with the other side's code and hint,
        ``RemoteProtocolError`` when the other side is no member, or another ``TransportError``. The
        connection is closed then, and when this is cancelled.
        """
        await self._transport.dial(peer_id, addresses)
        if peer_id in self._met:
            return
        try:
            await self._greet(peer_id)
        except TransportError as error:
            if peer_id not in self._met:
                await self._transport.disconnect(peer_id)
                raise
            # Both dialled at once: ours went down with its connection, theirs got through.
            log.debug("hello lost beside another", extra={"peer": peer_id, "why": error.message})
        except CoveyError:
            await self._transport.disconnect(peer_id)
            raise
        except trio.Cancelled:
            if peer_id not in self._met:  # without a hello it would keep others from dialling
                with trio.move_on_after(CLOSE_WAIT_S, shield=True):
                    await self._transport.disconnect(peer_id)
            raise

    async def _greet(self, peer_id: PeerId) -> None:
        """Say hello on a present connection, as the dialer."""
        stream = await self._transport.open_stream(peer_id, HELLO_PROTOCOL)
        try:
            await send(stream, Hello(self._introduction(peer_id)))
            reply = await receive(stream)
            if isinstance(reply, HelloRefusal):
                raise self._refused(peer_id, reply)
            if not isinstance(reply, HelloReply):
                raise unexpected(reply)
            membership = self._check(peer_id, reply.introduction)
            await self._learn_pages(stream)
            self._admit(peer_id, reply.introduction, membership)  # as our last page tells it
            await self._send_pages(stream)
            await stream.finish()
            await expect_end(stream)
        finally:
            with trio.move_on_after(CLOSE_WAIT_S, shield=True):
                await stream.aclose()
        self._announce(peer_id)

    async def _answer(self, stream: Stream) -> None:
        """Answer one hello, as the acceptor; a peer that fails it loses its connection."""
        peer_id = stream.peer_id
        try:
            await self._welcome(stream)
        except RemoteProtocolError as error:
            log.info("hello refused", extra={"peer": peer_id, "code": error.code})
            await refuse(stream, self._refusal(peer_id, error))
            await self._transport.disconnect(peer_id)
        except TransportError as error:
            log.info("hello lost", extra={"peer": peer_id, "code": error.code})
            if peer_id not in self._met:
                await self._transport.disconnect(peer_id)

    async def _welcome(self, stream: Stream) -> None:
        peer_id = stream.peer_id
        hello = await receive(stream)
        if not isinstance(hello, Hello):
            raise unexpected(hello)
        membership = self._check(peer_id, hello.introduction)
        version = common_version(hello.introduction.versions)
        await send(stream, HelloReply(version, self._introduction(peer_id)))
        await self._send_pages(stream)
        await self._learn_pages(stream)
        await expect_end(stream)
        self._admit(peer_id, hello.introduction, membership)  # as our end tells it
        await stream.finish()
        self._announce(peer_id)

    def _introduction(self, peer_id: PeerId) -> Introduction:
        membership = self._own.identity.member
        entry = self._directory.get(self._directory.own)
        advert = entry.signed_advert if entry and entry.advert else None
        return Introduction(
            versions=VERSIONS,
            features=FEATURES,
            mesh=membership.mesh,
            certificate=membership.certificate.encode(),
            issuer_certificate=membership.issuer_certificate.encode(),
            standing=self._own.standing(),
            seen=self._directory.standing_of(peer_id).joined(self._own.seen_in_feeds(peer_id)),
            addresses=self._own.addresses()[:MAX_ADDRESSES],
            advert=advert.encode() if advert else None,
            revocations=self._directory.revocations.encoded,
            time_us=self._effects.now_us(),
            instance=self._own.instance.id,
            yours=self._advert_of(peer_id),
        )

    def _advert_of(self, peer_id: PeerId) -> bytes | None:
        entry = self._directory.get(peer_id)
        return entry.signed_advert.encode() if entry and entry.signed_advert else None

    def _check(self, peer_id: PeerId, introduction: Introduction) -> Membership:
        """Verify a peer by the newest revocations that either side knows."""
        mesh, now_us = self._directory.mesh, self._effects.now_us()
        if introduction.mesh == mesh:
            self._learn_revocations(introduction.revocations)
        self._check_clock(peer_id, introduction)
        membership = check_introduction(introduction, mesh, peer_id, now_us)
        self._directory.revocations.check(membership.certificate, membership.issuer_certificate)
        self._check_instance(peer_id, introduction)
        self._own.instance.look_at(introduction.yours)
        return membership

    def _check_instance(self, peer_id: PeerId, introduction: Introduction) -> None:
        """Refuse a second run of a peer whose first one is connected. Both connections end, and
        both runs hear of each other when they come back.
        """
        entry = self._directory.get(peer_id)
        known = entry.instance if entry and entry.is_connected else b""
        if known and introduction.instance and introduction.instance != known:
            if introduction.advert is not None:
                self._learn(RelayedAdvert(introduction.advert, LIFETIME_MS))
            raise RemoteProtocolError(
                f"{peer_id} is connected already, as another instance",
                code=ANOTHER_INSTANCE,
                hint="if it did not just restart, two machines have one identity: stop one",
            )

    def _check_clock(self, peer_id: PeerId, introduction: Introduction) -> None:
        """Refuse a peer whose clock and ours are far apart."""
        if introduction.time_us is not None and introduction.mesh == self._directory.mesh:
            shown = Certificate.decode(introduction.certificate)
            issuer = Certificate.decode(introduction.issuer_certificate)
            self._judge_clocks(Reading(peer_id, introduction.time_us), shown, issuer)

    def _judge_clocks(self, theirs: Reading, *shown: Certificate) -> None:
        """Compare a peer's clock with ours, by the evidence of our neighbours and certificates."""
        now_us, member = self._effects.now_us(), self._own.identity.member
        others = (now_us + each for peer, each in self._clocks.items() if peer != theirs.peer)
        chain = (*shown, member.certificate, member.issuer_certificate)
        issued = [each.not_before_us for each in chain if each.mesh == member.mesh]
        check_clocks(Reading(self._directory.own, now_us), theirs, others, issued)

    def _refused(self, peer_id: PeerId, refusal: HelloRefusal) -> CoveyError:
        """The error that a refusal is to us; about clocks we may know more than the other side."""
        self._learn_revocations(refusal.revocations)
        self._own.instance.look_at(refusal.yours)
        if refusal.time_us is not None:
            try:
                self._judge_clocks(Reading(peer_id, refusal.time_us))
            except RemoteProtocolError as error:
                if error.details["wrong"] is not None:
                    return error
        return refused(refusal)

    def _refusal(self, peer_id: PeerId, error: RemoteProtocolError) -> HelloRefusal:
        """What we tell a dialer: why, what to do, and what may have been the reason."""
        return HelloRefusal(
            code=error.code,
            reason=error.message[:MAX_TEXT_CHARS],
            hint=error.hint or "",
            # A stranger to the mesh learns nothing of it.
            revocations=None if error.code == WRONG_MESH else self._directory.revocations.encoded,
            time_us=self._effects.now_us(),
            yours=self._advert_of(peer_id) if error.code == ANOTHER_INSTANCE else None,
        )

    def _learn_revocations(self, encoded: bytes | None) -> None:
        """Take in the list that a peer shows; a bad one fails no hello by itself."""
        if encoded is None:
            return
        try:
            self._directory.revocations.learn(encoded)
        except RemoteProtocolError as error:
            log.info("revocations ignored", extra={"code": error.code, "why": error.message})

    def _admit(self, peer_id: PeerId, introduction: Introduction, membership: Membership) -> None:
        """Serve a verified peer, and take in what it said of itself and of us."""
        self._directory.revocations.check(membership.certificate, membership.issuer_certificate)
        self._transport.admit(peer_id)
        if not self._transport.is_admitted(peer_id):
            raise StreamLostError("the connection ended with the hello", peer=peer_id)
        self._strangers_since.pop(peer_id, None)
        entry = self._directory.met(peer_id, membership, introduction.addresses)
        entry.features = introduction.features
        self._directory.greeted(peer_id, introduction.instance, introduction.standing.boot)
        if introduction.time_us is not None:
            self._clocks[peer_id] = introduction.time_us - self._effects.now_us()
        self._directory.saw(peer_id, introduction.standing)
        if introduction.advert is not None:
            self._learn(RelayedAdvert(introduction.advert, LIFETIME_MS))
        self._look_back(peer_id, introduction.seen)

    def _announce(self, peer_id: PeerId) -> None:
        if not self._transport.is_admitted(peer_id):
            raise StreamLostError("the connection ended with the hello", peer=peer_id)
        self._met.add(peer_id)
        for callback in self._on_met:
            callback(peer_id)

    def _look_back(self, peer_id: PeerId, seen: Standing) -> None:
        """Act on how far a neighbour saw us: further than we are means that we lost our disk."""
        standing = self._own.standing()
        if not standing.is_behind(seen):
            return
        if seen.boot - standing.boot > MAX_BOOT_LEAP:
            log.warning("neighbour saw an absurd boot of ours", extra={"peer": peer_id})
            return
        log.warning(
            "neighbour saw us further",
            extra={"peer": peer_id, "boot": seen.boot, "epoch": seen.epoch},
        )
        for callback in self._on_behind:
            callback(seen)

    async def _send_pages(self, stream: Stream) -> None:
        for page in pages(self._directory.relayed_adverts(to=stream.peer_id)):
            await send(stream, page)

    async def _learn_pages(self, stream: Stream) -> None:
        for _ in range(MAX_HELLO_PAGES):
            page = await receive(stream)
            if not isinstance(page, HelloAdverts):
                raise unexpected(page)
            for relayed in page.adverts:
                self._learn(relayed)
                await trio.lowlevel.checkpoint()  # three signatures each: let others run between
            if page.is_last:
                return
        raise RemoteProtocolError(f"more than {MAX_HELLO_PAGES} pages of adverts", code="too-many")

    def _learn(self, relayed: RelayedAdvert) -> None:
        """Take in an advert; a bad one is its author's or relay's fault and fails no hello."""
        try:
            signed = SignedAdvert.decode(relayed.encoded)
            self._directory.learn(signed, remaining_ms=relayed.remaining_ms)
        except RemoteProtocolError as error:
            log.info("advert ignored", extra={"code": error.code, "why": error.message})

    def _connection_changed(self, peer_id: PeerId, is_up: bool) -> None:
        if is_up:
            self._strangers_since[peer_id] = trio.current_time()
        else:
            self._strangers_since.pop(peer_id, None)
            self._met.discard(peer_id)
            self._clocks.pop(peer_id, None)
            self._directory.lost(peer_id)
