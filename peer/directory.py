"""Whom this peer knows: certificate, advert, addresses and how far each one was seen, in memory.

Only what a valid certificate backs gets in. An advert lives for its lifetime counted from receipt,
by a clock that nobody can set. The directory is bounded: when it is full, peers that we have only
heard of make room for new ones, and peers that we are connected to never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from peer.effects import Effects
from peer.revocations import Revocations
from protocols.advert import LIFETIME_MS, Advert, SignedAdvert, supersedes
from protocols.errors import RemoteProtocolError
from protocols.hello import RelayedAdvert, Standing
from protocols.keys import PeerId
from protocols.limits import ADVERT_LIFETIME_S, ADVERT_OVERDUE_S, MAX_DIRECTORY_PEERS
from protocols.membership import ADVERTS, TOLERANCE_US, WORKER, Certificate, Membership, may

NOWHERE: Final = Standing()

ChangeCallback = Callable[[PeerId], None]


@dataclass(slots=True)
class Entry:
    """What is known of one peer. Read it, and let the directory change it."""

    peer_id: PeerId
    certificate: Certificate
    issuer_certificate: Certificate
    signed_advert: SignedAdvert | None = None
    advert_expires: float = 0.0
    """In ``trio.current_time``."""
    hello_addresses: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    standing: Standing = NOWHERE
    """The furthest that anybody told us this peer has come."""
    last_hello: float | None = None
    """In ``trio.current_time``; None when we only heard of it."""
    is_connected: bool = False
    """Whether a connection with a valid hello is up."""
    is_self: bool = False
    instance: bytes = b""
    """Which run of it is connected, as its hello said."""
    met_boot: int = 0
    is_doubled: bool = False
    """Whether two runs of it said hello at once."""

    @property
    def is_contradicted(self) -> bool:
        """Whether another run of the same key is there beside the one that is connected."""
        if self.is_connected and self.is_doubled:
            return True
        advert = self.signed_advert.advert if self.signed_advert else None
        if advert is None or not (self.is_connected and self.instance and advert.instance):
            return False
        return advert.instance != self.instance and advert.boot >= self.met_boot

    @property
    def advert(self) -> Advert | None:
        """Its current advert, None once that has expired."""
        if self.signed_advert is None or trio.current_time() >= self.advert_expires:
            return None
        return self.signed_advert.advert

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to dial it: its advert's addresses, then those of its last hello if recent."""
        advertised = self.advert.addresses if self.advert else ()
        greeted = self.hello_addresses if self.is_connected or self._met_lately else ()
        return tuple(dict.fromkeys((*advertised, *greeted)))

    @property
    def is_overdue(self) -> bool:
        """Whether nothing was heard of it when its next advert was due: it may be gone."""
        if self.is_connected or self.is_self or self.signed_advert is None:
            return False
        lifetime_s = self.signed_advert.advert.lifetime_ms / 1_000
        heard_at = self.advert_expires - lifetime_s
        if self.last_hello is not None:
            heard_at = max(heard_at, self.last_hello)
        return trio.current_time() - heard_at > ADVERT_OVERDUE_S

    @property
    def _met_lately(self) -> bool:
        since = self.last_hello
        return since is not None and trio.current_time() - since < ADVERT_LIFETIME_S

    @property
    def remaining_ms(self) -> int:
        """What is left of its advert's lifetime."""
        return max(0, int((self.advert_expires - trio.current_time()) * 1_000))


class Directory:
    """Every peer of one mesh that we know, ourselves included once we have an advert."""

    def __init__(
        self, mesh: bytes, own: PeerId, effects: Effects, revocations: Revocations | None = None
    ) -> None:
        self.mesh = mesh
        self.own = own
        self.revocations = revocations or Revocations(mesh, effects)
        self.version = 0
        """Rises with every change, so that what is computed from the directory can be kept."""
        self._effects = effects
        self._entries: dict[PeerId, Entry] = {}
        self._callbacks: list[ChangeCallback] = []
        self.revocations.on_change(self._forget_revoked)

    def on_change(self, callback: ChangeCallback) -> None:
        """Call ``callback(peer)`` after anything about a peer changed; it must not block."""
        self._callbacks.append(callback)

    def now_us(self) -> int:
        """The time by this machine's clock, in which adverts and certificates state theirs."""
        return self._effects.now_us()

    def get(self, peer_id: PeerId) -> Entry | None:
        """Return what is known of a peer."""
        return self._entries.get(peer_id)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def roles(self, peer_id: PeerId) -> tuple[str, ...]:
        """The roles of a member whose certificate is valid now, none for anybody else.

        The one place where what was learned once is judged anew: by the clock and by the
        revocations.
        """
        entry = self._entries.get(peer_id)
        if entry is None:
            return ()
        shown, issuer = entry.certificate, entry.issuer_certificate
        ends_us = min(shown.not_after_us, issuer.not_after_us) + TOLERANCE_US
        is_valid = self._effects.now_us() <= ends_us and not self.revocations.holds(shown, issuer)
        return shown.roles if is_valid else ()

    def may(self, peer_id: PeerId, protocol: str) -> bool:
        """Whether that peer may open ``protocol`` to us."""
        return may(self.roles(peer_id), protocol)

    def with_role(self, role: str) -> list[Entry]:
        """Every known peer whose certificate gives it ``role``."""
        return [entry for entry in self if role in self.roles(entry.peer_id)]

    def workers(self) -> list[Entry]:
        """Every peer that is a worker and says so in a current advert, ourselves included."""
        return [entry for entry in self if self.worker(entry.peer_id) is not None]

    def worker(self, peer_id: PeerId) -> Entry | None:
        """Return what is known of a peer, if it is a worker and says so in a current advert."""
        entry = self._entries.get(peer_id)
        advert = entry.advert if entry else None
        is_worker = advert is not None and WORKER in advert.roles and WORKER in self.roles(peer_id)
        return entry if is_worker else None

    @property
    def own_capabilities(self) -> Mapping[str, Any]:
        """What our own advert says of this machine; nothing before it is measured."""
        entry = self._entries.get(self.own)
        return entry.advert.capabilities if entry and entry.advert else {}

    def met(self, peer_id: PeerId, membership: Membership, addresses: tuple[str, ...]) -> Entry:
        """Take in a peer whose hello was verified; it is connected from now on.

        Raises ``RemoteProtocolError`` when it was revoked meanwhile.
        """
        self.revocations.check(membership.certificate, membership.issuer_certificate)
        entry = self._admit(peer_id, membership.certificate, membership.issuer_certificate)
        entry.hello_addresses = addresses
        entry.last_hello = trio.current_time()
        entry.is_connected = True
        self._changed(peer_id)
        return entry

    def lost(self, peer_id: PeerId) -> None:
        """Note that the last connection with a peer is gone."""
        entry = self._entries.get(peer_id)
        if entry is not None and entry.is_connected:
            entry.is_connected = entry.is_doubled = False
            entry.instance = b""
            self._changed(peer_id)

    def greeted(self, peer_id: PeerId, instance: bytes, boot: int) -> None:
        """Note which run of a connected peer said hello."""
        entry = self._entries[peer_id]
        entry.is_doubled = bool(entry.instance and instance) and entry.instance != instance
        entry.instance, entry.met_boot = instance, boot
        self._changed(peer_id)

    def saw(self, peer_id: PeerId, standing: Standing) -> None:
        """Remember how far a known peer has come, from its hello or from its feed."""
        entry = self._entries.get(peer_id)
        if entry is not None:
            entry.standing = entry.standing.joined(standing)

    def standing_of(self, peer_id: PeerId) -> Standing:
        """The furthest that we saw a peer, at zero when we never did."""
        entry = self._entries.get(peer_id)
        return entry.standing if entry else NOWHERE

    def is_news(self, advert: Advert) -> bool:
        """Whether ``advert`` is of another peer and supersedes what we hold; costs no signature."""
        entry = self._entries.get(advert.peer_id)
        known = entry.signed_advert if entry else None
        return advert.peer_id != self.own and supersedes(advert, known.advert if known else None)

    def is_stale(self, advert: Advert) -> bool:
        """Whether we hold a later advert of its author; the same one again is not stale."""
        entry = self._entries.get(advert.peer_id)
        known = entry.signed_advert if entry else None
        return known is not None and supersedes(known.advert, advert)

    def verify(self, signed: SignedAdvert) -> None:
        """Check that a member of this mesh signed the advert; raise ``RemoteProtocolError``."""
        self.revocations.check(signed.certificate, signed.issuer_certificate)
        if not may(signed.certificate.roles, ADVERTS):
            raise RemoteProtocolError("the advert's author has no role that we know")
        signed.verify(
            self.mesh, self._effects.now_us(), is_chain_known=self._knows_chain_of(signed)
        )

    def learn(self, signed: SignedAdvert, *, remaining_ms: int = LIFETIME_MS) -> bool:
        """Take in an advert for what is left of its lifetime; tell whether it was news.

        Learning in any order and any number of times ends in the same adverts. Raises
        ``RemoteProtocolError`` when it is not a member's.
        """
        advert = signed.advert
        if remaining_ms <= 0 or not self.is_news(advert):
            return False
        self.verify(signed)
        entry = self._admit(advert.peer_id, signed.certificate, signed.issuer_certificate)
        self._set_advert(entry, signed, min(remaining_ms, advert.lifetime_ms))
        return True

    def advertise(self, signed: SignedAdvert) -> None:
        """Take in our own advert, so that we are one more candidate for our own jobs."""
        entry = self._admit(self.own, signed.certificate, signed.issuer_certificate)
        entry.is_self = True
        self._set_advert(entry, signed, signed.advert.lifetime_ms)

    def relayed_adverts(self, *, to: PeerId) -> Iterator[RelayedAdvert]:
        """Yield every current advert that ``to`` can't have from itself."""
        for entry in self:
            if entry.advert and entry.signed_advert and entry.peer_id != to:
                yield RelayedAdvert(entry.signed_advert.encode(), entry.remaining_ms)

    def _knows_chain_of(self, signed: SignedAdvert) -> bool:
        entry = self._entries.get(signed.advert.peer_id)
        return (
            entry is not None
            and entry.certificate == signed.certificate
            and entry.issuer_certificate == signed.issuer_certificate
        )

    def forget(self, peer_id: PeerId) -> None:
        """Drop a peer that is no member any more; what others remember of it is theirs."""
        if peer_id != self.own and self._entries.pop(peer_id, None) is not None:
            self._changed(peer_id)

    def _forget_revoked(self) -> None:
        for entry in self:
            if self.revocations.holds(entry.certificate, entry.issuer_certificate):
                self.forget(entry.peer_id)
        self.version += 1

    def _admit(self, peer_id: PeerId, certificate: Certificate, issuer: Certificate) -> Entry:
        """Return the peer's entry; a certificate that was issued later replaces the one there."""
        entry = self._entries.get(peer_id)
        if entry is None:
            self._make_room()
            entry = self._entries[peer_id] = Entry(peer_id, certificate, issuer)
        elif certificate.not_before_us >= entry.certificate.not_before_us:
            entry.certificate, entry.issuer_certificate = certificate, issuer
        return entry

    def _make_room(self) -> None:
        if len(self._entries) < MAX_DIRECTORY_PEERS:
            return
        idle = [e for e in self if not e.is_connected and not e.is_self]
        if not idle:
            raise RemoteProtocolError(
                f"the directory is full at {MAX_DIRECTORY_PEERS} connected peers",
                code="directory-full",
            )
        del self._entries[min(idle, key=lambda e: e.advert_expires).peer_id]

    def _set_advert(self, entry: Entry, signed: SignedAdvert, remaining_ms: int) -> None:
        entry.signed_advert = signed
        entry.advert_expires = trio.current_time() + remaining_ms / 1_000
        entry.standing = entry.standing.joined(Standing(boot=signed.advert.boot))
        self._changed(entry.peer_id)

    def _changed(self, peer_id: PeerId) -> None:
        self.version += 1
        for callback in self._callbacks:
            callback(peer_id)
