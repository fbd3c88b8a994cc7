"""Goes from index rows back to signed bytes and hands them on a bundle at a time: what every export
is made of.

Everything blocks, and everything that came from a disk is checked again: a row without a whole
record and a header that its author signed is left out and counted, for an export that does not
verify is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from peer.copies import Copies, EntryAt, Found, Places
from peer.journal import Journal
from peer.rows import BodilessRow, RecordRow
from peer.tables import Cursor
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.excerpt import Part, parents_of
from protocols.feed import SignedHeader
from protocols.keys import PeerId, SigningKey, peer_id_of
from protocols.membership import Membership
from protocols.record import Record
from protocols.taking import run_of, worker_of
from protocols.tombstone import STATEMENT_KINDS, Redaction, Redactions, records_of

PAGE: Final = 4_096  # rows asked for at a time, so that others get their answers in between
MAX_NAMING: Final = 16  # headers told of one redacted record: one, but for strangers who name it


class Shelf(Places, Protocol):
    """What an export asks of an index."""

    def records(self, cids: Iterable[bytes], /) -> list[RecordRow]:
        """Return those of these records that are here."""
        ...

    def feeds(self, since_us: int, /) -> list[Cursor]:
        """Return where every feed begins that has records since a moment, in order."""
        ...

    def page(self, after: Cursor, since_us: int, limit: int, /) -> list[RecordRow]:
        """Return the next records of that feed that began at or after a moment, and environments
        and hardware that such records of any feed name.
        """
        ...

    def bodiless(self, cids: Iterable[bytes], /) -> list[BodilessRow]:
        """Return the places at which headers name these records and no body stands."""
        ...

    def certificates(self, feeds: Iterable[bytes], /) -> list[RecordRow]:
        """Return the records by which these feeds show their members' certificates, the newest
        ``MAX_SHOWN_CERTIFICATES`` of each, in order.
        """
        ...


class Erased(NamedTuple):
    """A record of which only the header that names it is left, and why."""

    cid: CID
    proofs: tuple[SignedHeader, ...]
    """Headers that name it, one of each feed; several where it is unknown whose record it was, and
    none where none can be read here.
    """
    redaction: Redaction

    @property
    def signers(self) -> tuple[bytes, ...]:
        """Whose headers these are."""
        return tuple(proof.header.feed for proof in self.proofs)


@dataclass(slots=True)
class Excerpt:
    """What is exported. ``parts`` is read once; the counts are right when it has been."""

    shelf: Shelf
    entry_at: EntryAt
    rows: Iterable[RecordRow]
    signer: SigningKey
    """Who exports: statements of its own are signed by this key."""
    asked: CID | None = None
    redactions: Redactions = field(default_factory=lambda: Redactions(None))
    member: Membership | None = None
    """Of who exports, whose own feed may not show it any more, or not yet."""
    revoked: bytes | None = None
    """The revocation list that is known here."""
    records: int = 0
    """How many of ``rows`` are exported."""
    along: int = 0
    """How many records go along, by which whoever reads the export can check it."""
    authors: set[bytes] = field(default_factory=set[bytes])
    unproven: list[CID] = field(default_factory=list[CID])
    """Records left out, because their signed bytes are damaged or not there yet."""
    unsigned: set[CID] = field(default_factory=set[CID])
    """Those of them that nobody has signed yet, as far as the shelf knows."""
    _named: set[CID] = field(default_factory=set[CID])
    """Redacted records that exported ones name."""
    _made_by: dict[CID, set[PeerId]] = field(default_factory=dict[CID, set[PeerId]])
    """Whose runs they are, as those say who took what they made."""
    _statements: set[CID] = field(default_factory=set[CID])
    """Exported tombstones and certificates."""
    _redacted: list[Erased] | None = None

    def parts(self) -> Iterator[Part]:
        """Yield every part, in the order of ``rows``; those of one bundle should be neighbours."""
        for part in self._parts(self.rows, self.unproven):
            self.records += len(part.records)
            yield part

    @property
    def signers(self) -> set[bytes]:
        """The authors of what is exported and whose headers name what was redacted: once all
        ``parts`` were read.
        """
        return self.authors.union(*(each.signers for each in self.redacted()))

    def certificates(self, written: Container[CID]) -> Iterator[Part]:
        """Yield the records that show the certificates of ``signers``, as far as their signed bytes
        are here and they are not among those ``written`` before.
        """
        rows = self.shelf.certificates(sorted(self.signers))
        return self._along((row for row in rows if CID(row.cid) not in written), [])

    def redacted(self) -> list[Erased]:
        """Return the redacted records that were asked for or that the exported ones name, by links
        or as tombstones: once all ``parts`` were read.
        """
        if self._redacted is None:
            asked = {self.asked} if self.asked else set[CID]()
            named = sorted(cid for cid in self._named | asked if self.redactions.of(cid))
            present = self.known(named)
            self._redacted = self._erased([cid for cid in named if cid not in present])
        return self._redacted

    def _erased(self, cids: Sequence[CID]) -> list[Erased]:
        """Return why these were redacted, with headers that name each: the one of the peer that is
        said to have made it, else those of all feeds that name it, for anybody can name what
        somebody else made.
        """
        rows: dict[CID, list[BodilessRow]] = {cid: [] for cid in cids}
        for row in self.shelf.bodiless(cids) if cids else ():
            rows[CID(row.cid)].append(row)
        copies = Copies(self.entry_at, self.shelf)
        found = (self._erased_one(cid, rows[cid], copies) for cid in cids)
        return [each for each in found if each is not None]

    def _erased_one(self, cid: CID, rows: Iterable[BodilessRow], copies: Copies) -> Erased | None:
        told: dict[bytes, tuple[SignedHeader, Redaction]] = {}
        for row in rows:
            redaction = self.redactions.of(cid, row.feed)
            if redaction is None or row.feed in told:
                continue
            proof = copies.header_of(row)
            if proof is not None:
                told[row.feed] = proof, redaction
        made_by = self._made_by.get(cid, ())
        likely = [told[feed] for feed in told if peer_id_of(feed) in made_by] or [*told.values()]
        # rather what others had erased: in its own feed anybody may redact what it names
        likely.sort(key=lambda each: each[1].by == each[0].header.feed)
        redaction = likely[0][1] if likely else self.redactions.of(cid)
        if redaction is None:
            return None
        proofs = [proof for proof, why in likely if why == redaction]
        return Erased(cid, tuple(proofs[:MAX_NAMING]), redaction)

    def authority(self, erased: Iterable[Erased]) -> Iterator[Part]:
        """Yield the tombstones of what was erased, and the certificates that make them count, but
        for those in parts before.
        """
        redactions = [each.redaction for each in erased]
        cids = {cid for each in redactions for cid in (each.tombstone, each.certificate) if cid}
        others = sorted(cids - self._statements)
        rows = self.shelf.records(others) if others else []
        self.unproven += sorted(set(others) - {CID(row.cid) for row in rows})
        return self._along(rows, self.unproven)

    def _along(self, rows: Iterable[RecordRow], unproven: list[CID]) -> Iterator[Part]:
        for part in self._parts(rows, unproven):
            self.along += len(part.records)
            yield part

    def _parts(self, rows: Iterable[RecordRow], unproven: list[CID]) -> Iterator[Part]:
        copies = Copies(self.entry_at, self.shelf)
        part: _Gathered | None = None
        for row in rows:
            copy = copies.of(row)
            if copy is None:
                unproven.append(CID(row.cid))
                if not self.shelf.bundles_over(row.feed, row.epoch, row.sequence):
                    self.unsigned.add(CID(row.cid))
                continue
            if part is None or part.proof.cid != copy.signed.cid:
                if part is not None:
                    yield part.finished()
                part = _Gathered(copy.signed)
            if part.add(row, copy.encoded):
                self.authors.add(row.feed)
                self._note(CID(row.cid), copy.record)
        if part is not None:
            yield part.finished()

    def _note(self, cid: CID, record: Record) -> None:
        """Keep which redacted records a record names, and whether it says anything about them."""
        if record.kind in STATEMENT_KINDS:
            self._statements.add(cid)
        if len(self.redactions):
            linked = [target for target, _ in (*record.used, *record.generated)]
            names = (*parents_of(record), *linked, *records_of(record))
            self._named.update(name for name in names if self.redactions.of(name) is not None)
            self._note_maker(record)

    def _note_maker(self, record: Record) -> None:
        """Keep whose run a record says to have taken the result of. Who says it of itself proves
        nothing that its header does not.
        """
        worker, run = worker_of(record.kind, record.attributes), run_of(record.informed_by)
        if worker is None or run is None or worker == peer_id_of(record.author):
            return
        if run in self._named:
            self._made_by.setdefault(run, set()).add(worker)

    def known(self, cids: Sequence[CID]) -> set[CID]:
        """Return those of these records that are on the shelf."""
        chunks = (cids[start : start + PAGE] for start in range(0, len(cids), PAGE))
        return {CID(row.cid) for chunk in chunks for row in self.shelf.records(chunk)}


def everything(shelf: Shelf, since_us: int = 0) -> Iterator[RecordRow]:
    """Yield all rows of a shelf since a moment, a page at a time."""
    for feed in shelf.feeds(since_us):
        after = feed
        while page := shelf.page(after, since_us, PAGE):
            yield from page
            after = Cursor(feed.feed, feed.epoch, page[-1].sequence, page[-1].place)


def reader_of(journal: Journal, suspect: Callable[[int], None]) -> EntryAt:
    """Return how entries of ``journal`` are read, which blocks; ``suspect`` is told of places where
    no whole entry is.
    """

    def entry_at(place: int) -> Found | None:
        for offset, _end, kind, body in journal.scan(place):
            if offset == place:
                return kind, body
            break  # damage is skipped to the next whole entry
        suspect(place)
        return None

    return entry_at


class _Gathered:
    """A header and the records under it that were asked for so far."""

    def __init__(self, proof: SignedHeader) -> None:
        self.proof = proof
        self._records: dict[bytes, bytes] = {}

    def add(self, row: RecordRow, encoded: bytes) -> bool:
        """Add a record; say whether it is the first time: what came again stands in two rows."""
        is_new = row.cid not in self._records
        self._records.setdefault(row.cid, encoded)
        return is_new

    def finished(self) -> Part:
        return Part(self.proof, tuple(self._records.values()))


class TooManyError(CoveyError):
    """More records than this format can hold."""

    default_code = "too-many"
