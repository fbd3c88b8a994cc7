"""Whether the authors of an excerpt were members of a mesh when they signed, from nothing but the
certificates and the revocation list in the file.

A certificate is somebody else's word: an admitter's, whose own the root signed; so it ends in the
mesh's name and whoever made the file need not be believed. *When* a record was signed is less sure.
What stands behind a certificate in its author's feed was signed after the certificate was issued,
whatever any clock said. Everything else, that a certificate had not ended yet above all, rests on
the time that the author put into its header.

A peer that was revoked counts for nothing, whenever it signed: nobody knows since when its key is
in other hands. One that left was a member until then. That a peer was *not* revoked no file can
show, for whoever made it may have left the latest list out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Header
from protocols.keys import peer_id_of
from protocols.limits import MAX_SHOWN_CERTIFICATES, MAX_SHOWN_REVOCATIONS
from protocols.membership import TOLERANCE_US, Certificate, verify_signatures
from protocols.revocation import FOREVER_US, Barred, RevocationList
from protocols.roster import shown_chain

MEMBER: Final = "member"
OUTSIDE: Final = "outside"
REVOKED: Final = "revoked"
INVALID: Final = "invalid"
FOREIGN: Final = "foreign"
UNKNOWN: Final = "unknown"

State = Literal["member", "outside", "revoked", "invalid", "foreign", "unknown"]
_BEST_FIRST: Final = (MEMBER, OUTSIDE, REVOKED, INVALID)

_Place = tuple[int, int]
"""Epoch and sequence: the order of a feed."""


@dataclass(frozen=True, slots=True)
class Author:
    """What is known of one author's membership; all times are in microseconds since 1970."""

    peer: bytes
    state: State
    """``member``: of ``mesh`` whenever it signed what is here. ``outside``: at other times than
    some of it. ``foreign``: of another mesh than was asked for. ``invalid``: it shows certificates
    that nobody issued. ``unknown``: it shows none."""
    why: str = ""
    """Empty for a member."""
    mesh: bytes | None = None
    """Where its certificates end."""
    roles: tuple[str, ...] = ()
    from_us: int | None = None
    to_us: int | None = None
    issuers: tuple[bytes, ...] = ()
    """Who admitted it, and renewed that."""
    records: int = 0
    """How many of its records are here, redacted ones too."""
    outside: int = 0
    """How many of them were signed at other times."""
    outside_us: int | None = None
    """When the first of these was."""
    behind: int = 0
    """How many stand behind a certificate in its feed: signed after that was issued."""


@dataclass(slots=True)
class _Shown:
    """One chain of certificates, and what is wrong with it."""

    mesh: bytes | None
    fault: str
    chain: tuple[Certificate, Certificate] | None
    place: _Place | None = None
    """Where the record stands that shows it; none when it came by itself."""


class _Span(NamedTuple):
    """From when to when one chain made its peer a member."""

    start_us: int
    end_us: int
    place: _Place | None


class _Signed(NamedTuple):
    """Which records a header proved or names as redacted, by their offsets in it."""

    epoch: int
    first_sequence: int
    time_us: int
    offsets: bytes


@dataclass(slots=True)
class Authors:
    """Gathers what a file says about who was a member, and judges it at the end.

    ``mesh`` is the one that its reader asks for; without it each author is judged by the mesh whose
    certificates it shows.
    """

    mesh: bytes | None = None
    certificates: int = 0
    revocations: int = 0
    _shown: dict[bytes, list[_Shown]] = field(
        default_factory=lambda: defaultdict[bytes, list[_Shown]](list)
    )
    _by_record: dict[CID, _Shown] = field(default_factory=dict[CID, _Shown])
    _signed: dict[bytes, list[_Signed]] = field(
        default_factory=lambda: defaultdict[bytes, list[_Signed]](list)
    )
    _lists: dict[bytes, RevocationList] = field(default_factory=dict[bytes, RevocationList])

    def show(
        self, author: bytes, attributes: Mapping[str, Any], record: CID | None = None
    ) -> Certificate:
        """Take in the certificates that a ``record`` of ``author`` shows, or that came by
        themselves; return its own. Raises ``RemoteProtocolError`` for an invalid one, which is kept
        as such.
        """
        self.certificates += 1
        chain: tuple[Certificate, Certificate] | None = None
        try:
            chain = shown_chain(author, attributes)
            verify_signatures(chain[0].mesh, *chain)
        except RemoteProtocolError as error:
            mesh = chain[0].mesh if chain else None
            self._keep(author, _Shown(mesh, error.message, chain), record)
            raise
        self._keep(author, _Shown(chain[0].mesh, "", chain), record)
        return chain[0]

    def _keep(self, author: bytes, shown: _Shown, record: CID | None) -> None:
        if len(self._shown[author]) < MAX_SHOWN_CERTIFICATES:
            self._shown[author].append(shown)
            if record is not None:
                self._by_record[record] = shown

    def revoke(self, encoded: bytes) -> None:
        """Take in a revocation list; raises ``RemoteProtocolError`` unless its mesh's root signed
        it. Of several the highest version holds.
        """
        told = RevocationList.decode(encoded)
        told.verify(told.mesh)
        known = self._lists.get(told.mesh)
        if known is None and len(self._lists) >= MAX_SHOWN_REVOCATIONS:
            raise RemoteProtocolError(f"revocation lists of over {MAX_SHOWN_REVOCATIONS} meshes")
        self.revocations += 1
        if known is None or known.version < told.version:
            self._lists[told.mesh] = told

    def sign(self, header: Header, proven: Iterable[tuple[int, CID]] = ()) -> None:
        """Take in a verified header, and which records it proved or names as redacted, with their
        offsets in it.
        """
        offsets = bytearray()
        for offset, cid in proven:
            offsets.append(offset)
            if (shown := self._by_record.get(cid)) is not None:
                place = header.epoch, header.first_sequence + offset
                shown.place = min(place, shown.place or place)
        signed = _Signed(header.epoch, header.first_sequence, header.time_us, bytes(offsets))
        self._signed[header.feed].append(signed)

    def judged(self) -> list[Author]:
        """Return what is to be said of every feed that signed anything here, sorted."""
        return [self._author(peer) for peer in sorted(self._signed)]

    def _author(self, peer: bytes) -> Author:
        records = sum(len(signed.offsets) for signed in self._signed[peer])
        shown = self._shown.get(peer, [])
        if not shown:
            return Author(peer, UNKNOWN, "it shows no certificate", records=records)
        meshes = sorted({each.mesh for each in shown if each.mesh is not None})
        if self.mesh is not None and self.mesh not in meshes:
            return Author(peer, *_elsewhere(shown), records=records)
        wanted = [self.mesh] if self.mesh is not None else meshes
        found = [self._in_mesh(peer, mesh, records) for mesh in wanted]
        best = min(found, key=_rank, default=None)
        return best or Author(peer, INVALID, shown[0].fault, records=records)

    def _in_mesh(self, peer: bytes, mesh: bytes, records: int) -> Author:
        shown = [each for each in self._shown[peer] if each.mesh == mesh]
        valid = [each for each in shown if not each.fault]
        if not valid:
            return Author(peer, INVALID, shown[0].fault, mesh, records=records)
        standing = [each for each in valid if not self._is_revoked(mesh, each)]
        if not standing:
            return Author(peer, REVOKED, self._why_revoked(mesh, valid[0]), mesh, records=records)
        return self._over_time(peer, mesh, standing)

    def _over_time(self, peer: bytes, mesh: bytes, standing: list[_Shown]) -> Author:
        spans = [self._span(mesh, each) for each in standing]
        chains = [each.chain for each in standing if each.chain is not None]
        judged = [(each.time_us, *_count(each, spans)) for each in self._signed[peer]]
        outside = sum(out for _, out, _ in judged)
        return Author(
            peer,
            OUTSIDE if outside else MEMBER,
            "it was no member when it signed some of it" if outside else "",
            mesh,
            tuple(sorted({role for own, _ in chains for role in own.roles})),
            min(span.start_us for span in spans),
            max(span.end_us for span in spans),
            tuple(sorted({own.issuer for own, _ in chains})),
            sum(len(each.offsets) for each in self._signed[peer]),
            outside,
            min((time_us for time_us, out, _ in judged if out), default=None),
            sum(behind for _, _, behind in judged),
        )

    def _span(self, mesh: bytes, shown: _Shown) -> _Span:
        assert shown.chain is not None, "only a chain that holds has a span"
        ends = [each.not_after_us for each in shown.chain]
        ends += self._left(mesh, shown.chain)
        start_us = max(each.not_before_us for each in shown.chain)
        return _Span(start_us, max(min(ends), start_us), shown.place)

    def _left(self, mesh: bytes, chain: tuple[Certificate, ...]) -> Iterator[int]:
        """Yield up to when the list of ``mesh`` lets these certificates stand, where it voids
        them.
        """
        moments = self._lists[mesh].moments if mesh in self._lists else {}
        for each in chain:
            until_us = moments.get(each.peer, -1)
            if each.not_before_us <= until_us:
                yield until_us

    def _is_revoked(self, mesh: bytes, shown: _Shown) -> bool:
        assert shown.chain is not None, "only a chain that holds is asked for"
        return FOREVER_US in self._left(mesh, shown.chain)

    def _why_revoked(self, mesh: bytes, shown: _Shown) -> str:
        assert shown.chain is not None, "only a chain that holds is asked for"
        told = self._lists[mesh]
        gone = {peer: until for peer, until in told.moments.items() if until == FOREVER_US}
        try:
            Barred(gone).check(*shown.chain)
        except RemoteProtocolError as error:
            return f"{error.message}, says version {told.version} of the mesh's list"
        raise AssertionError("the list voids this chain")


def _count(signed: _Signed, spans: list[_Span]) -> tuple[int, int]:
    """Return how many records of a header lie outside of all spans, and how many behind a
    certificate.
    """
    time_us, spanned = signed.time_us, [s for s in spans if signed.time_us <= _late(s)]
    is_inside = any(span.start_us - TOLERANCE_US <= time_us for span in spanned)
    places = [span.place for span in spanned if span.place is not None]
    if not places:
        return (0 if is_inside else len(signed.offsets)), 0
    first, place = min(places), (signed.epoch, signed.first_sequence)
    behind = sum((place[0], place[1] + offset) > first for offset in signed.offsets)
    return (0 if is_inside else len(signed.offsets) - behind), behind


def _late(span: _Span) -> int:
    return span.end_us + TOLERANCE_US


def _elsewhere(shown: list[_Shown]) -> tuple[State, str, bytes | None]:
    """Return what to say of an author that shows no certificate of the mesh asked for."""
    valid = [each for each in shown if not each.fault]
    if not valid:
        return INVALID, shown[0].fault, shown[0].mesh
    mesh = valid[0].mesh
    assert mesh is not None, "a chain that holds names its mesh"
    return FOREIGN, f"its certificates are of mesh {peer_id_of(mesh)}", mesh


def _rank(author: Author) -> tuple[int, int]:
    return _BEST_FIRST.index(author.state), author.outside
