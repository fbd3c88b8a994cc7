"""Messages of ``/covey/hello/1``: how two peers that are connected make sure of each other.

::

    dialer   Hello                →
                                  ←  HelloReply, or HelloRefusal and the end   acceptor
                                  ←  HelloAdverts …, the last one says so
             HelloAdverts …, end  →
                                  ←  end

The dialer serves the acceptor before its last page, the acceptor the dialer before its end; when
both ends are there, each knows that the other serves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocols.advert import InstanceId
from protocols.errors import Refused, RemoteProtocolError
from protocols.keys import PeerId
from protocols.limits import HELLO_PAGE_BYTES, MAX_ADVERT_BYTES, MAX_REVOCATIONS_BYTES
from protocols.membership import (
    WRONG_MESH,
    Addresses,
    Certificate,
    Key,
    Membership,
    TimeUs,
    verify_chain,
)
from protocols.wire import MessageCodec

VERSIONS: Final = (1,)
"""Versions of the whole suite of protocols that we speak, ascending."""

FEATURES: Final[tuple[str, ...]] = ()
"""Optional abilities within a version; a peer uses one only where both name it."""

ANOTHER_INSTANCE: Final = "another-instance"
"""The code of a refusal that asks to come back soon: the other run of the same key comes too."""

MAX_TEXT_CHARS: Final = 512  # a sentence and a hint are under 200

Counter = Annotated[int, Meta(ge=0, lt=1 << 53)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Versions = Annotated[tuple[Counter, ...], Meta(min_length=1, max_length=16)]
Features = Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=32)]
ListBytes = Annotated[bytes, Meta(max_length=MAX_REVOCATIONS_BYTES)]
AdvertBytes = Annotated[bytes, Meta(max_length=MAX_ADVERT_BYTES)]


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """How far a peer has come: its boot, its feed's epoch and that epoch's next sequence."""

    boot: Counter = 0
    epoch: Counter = 0
    next_sequence: Counter = 0

    def joined(self, other: Standing) -> Standing:
        """The highest of both: of boots, and of places in the feed."""
        place = max((self.epoch, self.next_sequence), (other.epoch, other.next_sequence))
        return Standing(max(self.boot, other.boot), *place)

    def is_behind(self, seen: Standing) -> bool:
        """Whether somebody saw this peer further than it believes to be."""
        return self.joined(seen) != self


class Introduction(msgspec.Struct, frozen=True, array_like=True):
    """Who I am, what I speak, how far I have come, and how far I saw you come."""

    versions: Versions
    features: Features
    mesh: Key
    certificate: bytes
    issuer_certificate: bytes
    standing: Standing
    seen: Standing
    addresses: Addresses
    advert: AdvertBytes | None = None
    revocations: ListBytes | None = None
    """The mesh's revocation list, as far as the sender knows it."""
    time_us: TimeUs | None = None
    """What the sender's clock says."""
    instance: InstanceId = b""
    """The sender's run, as in its adverts."""
    yours: AdvertBytes | None = None
    """The latest advert that the sender holds in the other side's name."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The dialer introduces itself."""

    introduction: Introduction


class HelloReply(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The acceptor has verified the dialer and introduces itself, in a version that both speak."""

    version: Counter
    introduction: Introduction


class HelloRefusal(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The acceptor's no: why, and what to do."""

    code: Text
    reason: Text
    hint: Text = ""
    revocations: ListBytes | None = None
    time_us: TimeUs | None = None
    yours: AdvertBytes | None = None


class RelayedAdvert(msgspec.Struct, frozen=True, array_like=True):
    """A signed advert that the sender holds, and what is left of its lifetime there."""

    encoded: AdvertBytes
    remaining_ms: Counter


class HelloAdverts(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A page of the adverts that the sender knows."""

    is_last: bool
    adverts: tuple[RelayedAdvert, ...]


HelloMessage = Hello | HelloReply | HelloRefusal | HelloAdverts
CODEC: Final[MessageCodec[HelloMessage]] = MessageCodec(HelloMessage)


def common_version(offered: Iterable[int], peer: PeerId = "the other side") -> int:
    """Return the highest version that both speak; raise ``RemoteProtocolError`` with code
    ``version`` if there is none.
    """
    both = set(VERSIONS) & set(offered)
    if not both:
        theirs = ", ".join(str(version) for version in sorted(set(offered)))
        is_theirs_older = max(offered) < min(VERSIONS)
        older = f"on {peer}" if is_theirs_older else f"on the machine that is not {peer}"
        raise RemoteProtocolError(
            f"{peer} speaks version {theirs} of the protocols, the other side {VERSIONS[-1]}",
            code="version",
            hint=f"update covey {older}, which has the older one, and start its daemon again",
        )
    return max(both)


def check_introduction(
    introduction: Introduction, mesh: bytes, peer: PeerId, now_us: int
) -> Membership:
    """Return the membership that ``introduction`` proves for ``peer``, the other end of the secure
    channel.

    Raises ``RemoteProtocolError`` with code ``version``, ``wrong-mesh``, ``wrong-peer`` or one of
    the certificate's.
    """
    common_version(introduction.versions, peer)
    if introduction.mesh != mesh:
        raise RemoteProtocolError(
            "the other side belongs to another mesh",
            code=WRONG_MESH,
            hint="both machines must have joined by tickets of one mesh",
        )
    certificate = Certificate.decode(introduction.certificate)
    issuer_certificate = Certificate.decode(introduction.issuer_certificate)
    if certificate.peer_id != peer:
        raise RemoteProtocolError(
            "the certificate shown belongs to another peer",
            code="wrong-peer",
            hint="each machine needs an identity and a ticket of its own",
        )
    verify_chain(mesh, certificate, issuer_certificate, now_us)
    return Membership(certificate, issuer_certificate)


def refused(refusal: HelloRefusal) -> Refused:
    """The error that a refusal is at the dialer."""
    return Refused(refusal.reason, code=refusal.code, hint=refusal.hint or None)


def pages(adverts: Iterable[RelayedAdvert]) -> Iterator[HelloAdverts]:
    """Yield ``adverts`` in pages of about ``HELLO_PAGE_BYTES``: at least one page, the last one
    marked.
    """
    page: list[RelayedAdvert] = []
    size_bytes = 0
    for advert in adverts:
        if size_bytes >= HELLO_PAGE_BYTES:
            yield HelloAdverts(False, tuple(page))
            page, size_bytes = [], 0
        page.append(advert)
        size_bytes += len(advert.encoded)
    yield HelloAdverts(True, tuple(page))
