"""Tombstones: records by which a record's author, or an aggregator, has the bodies of records
erased.

A header commits to digests, so it stays verifiable when a body is gone. Of each record that a
header names, a peer's body is absent, present or redacted, in this order, and whatever comes
together is joined by the greater: redacted is final. Which records are redacted is a function of
the *set* of records held, so their order, repeats and splits never show.

A tombstone says by whose authority it speaks, and counts only by that: as the author, for what
stands in its own feed; as an aggregator, for everybody's, if its feed shows a certificate with that
role. Any other stays a record like all others and has no effect; so do the latest of an author who
redacts more records than are remembered of one (see ``Earliest``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from protocols.checkpoint import HEADS_KIND
from protocols.cid import CID
from protocols.earliest import Dated, Earliest
from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_REDACTION_REASON_CHARS,
    MAX_REDACTIONS_OF_AUTHOR,
    MAX_TOMBSTONE_RECORDS,
)
from protocols.membership import STATEMENTS, TOMBSTONE, may
from protocols.record import Record, kind_of
from protocols.roster import CERTIFICATE_KIND, shown_roles

TOMBSTONE_KIND: Final = TOMBSTONE
AUTHOR: Final = "author"
AGGREGATOR: Final = "aggregator"

LASTING_KINDS: Final = frozenset((*STATEMENTS, CERTIFICATE_KIND, HEADS_KIND))
"""What rules others' answers cannot be redacted: its effect would go, and nobody could tell why."""

Authority = Literal["author", "aggregator"]


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """Which bodies are to be erased, why, and by whose authority."""

    records: Annotated[tuple[CID, ...], Meta(min_length=1, max_length=MAX_TOMBSTONE_RECORDS)]
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REDACTION_REASON_CHARS)]
    authority: Authority

    def __post_init__(self) -> None:
        """Refuse what counts more than once towards what is remembered of its author."""
        if len(set(self.records)) != len(self.records):
            raise ValueError("it names each record once")

    def to_attributes(self) -> dict[str, Any]:
        """Return the tombstone as a record's attributes."""
        return {
            "records": list(self.records),
            "reason": self.reason,
            "authority": self.authority,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Tombstone:
        """Return the tombstone that a record of its kind holds; raises ``RemoteProtocolError``."""
        try:
            return msgspec.convert(dict(attributes), cls, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a tombstone is invalid: {error}") from error


def records_of(record: Record) -> tuple[CID, ...]:
    """Return which records a record would have erased: none, if it is no valid tombstone."""
    if record.kind != TOMBSTONE_KIND:
        return ()
    try:
        return Tombstone.from_attributes(record.attributes).records
    except RemoteProtocolError:
        return ()


class Redaction(NamedTuple):
    """By whom and why one record was redacted: one tombstone's word about it."""

    tombstone: CID
    by: bytes
    """The public key that signed the tombstone."""
    at_us: int
    """The signer's wall clock: data only."""
    reason: str
    authority: Authority
    certificate: CID | None = None
    """The record by which the signer shows the role that its authority takes."""


def _speaker(redaction: Redaction) -> tuple[bytes, Authority]:
    return redaction.by, redaction.authority


def _is_authors(redaction: Redaction) -> bool:
    return redaction.authority == AUTHOR


def _order(redaction: Redaction) -> tuple[int, CID]:
    return redaction.at_us, redaction.tombstone


class Redactions:
    """Every tombstone held that may count, and which records they make redacted: a function of the
    set of records taken in, and of which of them were found to stand in which feeds.
    """

    def __init__(self, mesh: bytes | None) -> None:
        """``mesh`` is the root that certificates must come from; without one no role is shown."""
        self._mesh = mesh
        self._certificates: dict[bytes, set[CID]] = {}
        self._held: set[CID] = set()
        """The certificates that can be shown to others."""
        self._named: dict[CID, tuple[Redaction, ...]] = {}
        self._said: dict[bytes, Earliest] = {}
        self._found: dict[bytes, set[CID]] = {}
        self._found_anywhere: set[CID] = set()
        self._effective: dict[CID, None] = {}
        """What ``named`` returns, in the order in which it came."""
        self._listed: tuple[int, tuple[CID, ...]] = (0, ())
        self._open: dict[CID, int] = {}
        self.open_count = 0
        """How often tombstones name records that no header here was found to name without a body:
        of what is here, until it is erased.
        """
        self._passed_over: list[CID] = []
        self._recalled: list[bytes] = []
        self.changes = 0
        """Grows with whatever may change an answer."""

    def __len__(self) -> int:
        return len(self._named)

    def take(self, encoded: bytes, feed: bytes) -> Iterable[CID]:
        """Take in a verified record of ``feed``, of whatever kind; return the records of which it
        may change whether they are redacted.
        """
        kind = kind_of(encoded)
        try:
            if kind == TOMBSTONE_KIND:
                return self._take_tombstone(Record.decode_verified(encoded), CID.of(encoded))
            if kind == CERTIFICATE_KIND:
                return self._take_certificate(Record.decode_verified(encoded), CID.of(encoded))
        except RemoteProtocolError:
            pass  # kept as a record, of no effect
        return ()

    def _take_tombstone(self, record: Record, cid: CID) -> Iterable[CID]:
        tombstone = Tombstone.from_attributes(record.attributes)
        redaction = Redaction(
            cid, record.author, record.start_us, tombstone.reason, tombstone.authority
        )
        if tombstone.authority == AGGREGATOR and self._may(record.author):
            self._name(redaction, tombstone.records)
            return tombstone.records
        dated = Dated(record.start_us, cid, tombstone.records, tombstone.authority)
        said = self._said_by(record.author)
        changed = list(tombstone.records) if tombstone.authority == AUTHOR else []
        if dated not in said:
            gone = said.add(dated)
            self._passed_over += (each.cid for each in gone)
            if dated not in gone:
                self._name(redaction, tombstone.records)
            for each in gone:
                changed += self._unname(each)
        return changed

    def _said_by(self, author: bytes) -> Earliest:
        """Return what an author says within its bound: all but what a shown role lets it say."""
        said = self._said.get(author)
        if said is None:
            said = self._said[author] = Earliest(MAX_REDACTIONS_OF_AUTHOR)
        return said

    def _name(self, redaction: Redaction, records: Iterable[CID]) -> None:
        """Keep the earliest word of each author and authority about a record: it goes last."""
        changed: list[CID] = []
        for cid in records:
            known = self._named.get(cid, ())
            same = [each for each in known if _speaker(each) == _speaker(redaction)]
            if not same or _order(redaction) < _order(same[0]):
                others = (each for each in known if each not in same)
                self._named[cid] = (*others, redaction)
                changed.append(cid)
        self._recount(changed)

    def _unname(self, dated: Dated) -> Iterable[CID]:
        """Forget what a tombstone names that counts no longer; return that."""
        for cid in dated.records:
            left = tuple(each for each in self._named.get(cid, ()) if each.tombstone != dated.cid)
            if left:
                self._named[cid] = left
            else:
                self._named.pop(cid, None)
        self._recount(dated.records)
        return dated.records

    def _take_certificate(self, record: Record, cid: CID) -> Iterable[CID]:
        if self._mesh is None:
            return ()
        roles = shown_roles(self._mesh, record.author, record.attributes)
        if not may(roles, TOMBSTONE_KIND):
            return ()
        is_news = not self._may(record.author)
        self._certificates.setdefault(record.author, set()).add(cid)
        self.changes += 1
        if not is_news:
            return ()
        said = self._said_by(record.author)
        if said.is_cut:
            self._recalled.append(record.author)
        changed = [
            cid for each in said.kept if each.authority == AGGREGATOR for cid in each.records
        ]
        self._said[record.author] = said.without(AGGREGATOR)
        self._recount(changed)
        return changed

    def _may(self, author: bytes) -> bool:
        return author in self._certificates

    def take_passed_over(self) -> list[CID]:
        """Return, once, tombstones that were taken in and do not count, or no longer."""
        passed_over, self._passed_over = self._passed_over, []
        return passed_over

    def take_recalled(self) -> list[bytes]:
        """Return, once, the authors whose tombstones are to be taken in again, all of them: some
        were passed over before their certificates came.
        """
        recalled, self._recalled = self._recalled, []
        return recalled

    def of(self, cid: CID, feed: bytes | None = None) -> Redaction | None:
        """Return why the record that a header of ``feed`` names is redacted, none if it is not;
        without a feed, why it is wherever it stands that somebody had the authority to say: as the
        author, where ``found`` told that its own feed names the record.

        Of several tombstones it is always the same one, in whatever order they came.
        """
        named = self._named.get(cid)
        if not named:
            return None
        counted = [each for each in named if self._counts(each, cid, feed)]
        return self._shown(min(counted)) if counted else None

    def _counts(self, redaction: Redaction, cid: CID, feed: bytes | None) -> bool:
        if redaction.authority == AUTHOR:
            return cid in self.found_in(redaction.by) if feed is None else feed == redaction.by
        return self._may(redaction.by)

    def _shown(self, redaction: Redaction) -> Redaction:
        if redaction.authority == AUTHOR:
            return redaction
        # the certificate that shows the role: any will do, and always the same one is taken
        known = self._certificates[redaction.by]
        return redaction._replace(certificate=min(known & self._held or known))

    def hold(self, author: bytes, statement: CID) -> None:
        """Take in that a record of ``author`` can be shown to others, signed as it was; of those
        certificates that show a role, ``of`` names one that can, if any.
        """
        if statement in self._certificates.get(author, ()) and statement not in self._held:
            self._held.add(statement)
            self.changes += 1

    def release(self, statement: CID) -> None:
        """Take in that a record cannot be shown to others any more."""
        if statement in self._held:
            self._held.remove(statement)
            self.changes += 1

    def found(self, feed: bytes, cids: Iterable[CID]) -> None:
        """Take in that headers of a feed name these records, which are redacted in it."""
        fresh = set(cids) - self.found_in(feed)
        if fresh:
            self._found.setdefault(feed, set()).update(fresh)
            self._found_anywhere |= fresh
            self._recount(fresh)

    @property
    def excessive(self) -> list[bytes]:
        """The authors who redact more records than are remembered of one."""
        return sorted(author for author, said in self._said.items() if said.is_cut)

    def room_of(self, author: bytes, authority: Authority) -> int | None:
        """Return how many records more an author's tombstones may name; none if as many as it
        likes.
        """
        if authority == AGGREGATOR and self._may(author):
            return None
        said = self._said_by(author)
        return 0 if said.is_cut else MAX_REDACTIONS_OF_AUTHOR - said.named

    def found_in(self, feed: bytes) -> Set[CID]:
        """Return the redacted records that headers of a feed were found to name."""
        return self._found.get(feed, frozenset())

    def redactors_of(self, cid: CID) -> tuple[bool, set[bytes]]:
        """Return whether an aggregator redacted the record, wherever it stands, and which authors
        did in their own feeds.
        """
        counted = [each for each in self._named.get(cid, ()) if self._counts(each, cid, each.by)]
        authors = {each.by for each in counted if each.authority == AUTHOR}
        return any(each.authority != AUTHOR for each in counted), authors

    def about(self, cid: CID) -> list[Redaction]:
        """Return by which tombstones that count the record is erased, in whatever feed."""
        known = self._named.get(cid, ())
        return [self._shown(each) for each in known if self._counts(each, cid, each.by)]

    def is_shown_by(self, statements: Set[CID], cid: CID) -> bool:
        """Say whether the record would be redacted wherever it is if there were no others than
        these ``statements``.
        """
        counted = [each for each in self._named.get(cid, ()) if self._counts(each, cid, each.by)]
        shown = [each for each in counted if each.tombstone in statements]
        if all(map(_is_authors, counted)):
            return len(shown) == len(counted)
        by = {each.by for each in shown if not _is_authors(each)}  # one is enough for every feed
        return any(not self._certificates[each].isdisjoint(statements) for each in by)

    def statements_about(self, cids: Iterable[CID]) -> set[CID]:
        """Return the tombstones that have these records erased, in whatever feed, and a certificate
        for each author that needs one.
        """
        shown = [each for cid in cids for each in self.about(cid)]
        certificates = {each.certificate for each in shown if each.certificate is not None}
        return {each.tombstone for each in shown} | certificates

    def named(self) -> tuple[CID, ...]:
        """Return every record that a tombstone of any effect names."""
        if self._listed[0] != self.changes:  # 3 ms for MAX_REDACTIONS_OF_AUTHOR, and many ask
            self._listed = self.changes, tuple(self._effective)
        return self._listed[1]

    def _recount(self, cids: Collection[CID]) -> None:
        """Take in that more or less may be said or known of these records."""
        self.changes += bool(cids)
        for cid in cids:
            known = self._named.get(cid, ())
            if any(self._counts(each, cid, None) for each in known):
                self._effective[cid] = None
            else:
                self._effective.pop(cid, None)
            is_open = sum(self._is_open(each, cid) for each in known)
            self.open_count += is_open - self._open.pop(cid, 0)
            if is_open:
                self._open[cid] = is_open

    def _is_open(self, redaction: Redaction, cid: CID) -> bool:
        is_author = redaction.authority == AUTHOR
        return cid not in (self.found_in(redaction.by) if is_author else self._found_anywhere)

    @property
    def without_effect(self) -> int:
        """How many records are named by tombstones of authors who lack the authority alone."""
        return len(self._named) - len(self._effective)

    def applies(self, encoded: bytes, cid: CID, feed: bytes) -> bool:
        """Say whether a body of ``feed`` is to be erased: what rules others' answers never is."""
        return (
            cid in self._named
            and self.of(cid, feed) is not None
            and kind_of(encoded) not in LASTING_KINDS
        )


STATEMENT_KINDS: Final = frozenset((TOMBSTONE_KIND, CERTIFICATE_KIND))
"""What ``Redactions`` are made from."""


def mentions_redaction(stored: bytes) -> bool:
    """Say whether stored bytes may hold a tombstone or a certificate, at the speed of memory."""
    return any(mark in stored for mark in _MARKS)


_MARKS: Final = tuple(kind.encode() for kind in STATEMENT_KINDS)
