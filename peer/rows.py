"""From journal entries to index rows: pure, so that a rebuild and a merge cannot differ.

A row's ``place`` is the journal offset of the entry that carries the record, so that whoever doubts
a row can go back to the signed bytes. The same record may stand at two places (the tail of a lost
epoch moves without changing its CID): queries count CIDs, not rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

from protocols.cid import CID
from protocols.feed import Bundle, Header
from protocols.journal import DroppedBody, Entry, EpochBody, HeaderBody, RecordBody
from protocols.outline import outline_verified

MAX_BATCH_RECORDS: Final = (
    4_096  # a commit costs 1.4-2 ms whatever its size; past this memory grows and nothing is gained
)
MAX_BATCH_ENTRIES: Final = 4_096  # entries that carry no record must end a batch too

JournalEntry = tuple[int, int, int, bytes]
"""Offset, end offset, entry and body, as ``Journal.scan`` yields them."""


Place = tuple[bytes, int, int]
"""Feed, epoch and sequence of a record."""


class RecordRow(NamedTuple):
    """One record at one place of one feed."""

    cid: bytes
    feed: bytes
    epoch: int
    sequence: int
    kind: str
    start_us: int
    duration_us: int
    status: str
    environment: bytes | None
    hardware: bytes | None
    attributes: bytes
    place: int


class EdgeRow(NamedTuple):
    """One link of a record: ``direction`` is used, generated or informed_by."""

    record: bytes
    direction: str
    role: str
    target: bytes


class BundleRow(NamedTuple):
    """One signed range ``[first_sequence, next_sequence)`` of a feed."""

    cid: bytes
    feed: bytes
    epoch: int
    first_sequence: int
    next_sequence: int
    place: int


class BodilessRow(NamedTuple):
    """A place at which a header names a record whose body is not there: absent or redacted."""

    cid: bytes
    feed: bytes
    epoch: int
    sequence: int
    place: int


class Move(NamedTuple):
    """Uncut records of our own feed that a new epoch took over, from its sequence 0 on."""

    feed: bytes
    new_epoch: int
    old_epoch: int
    first_sequence: int


class DroppedRow(NamedTuple):
    """The start of a feed's epoch that is not held any more, and which aggregator said that it
    keeps it.
    """

    feed: bytes
    epoch: int
    next_sequence: int
    aggregator: bytes


class LastEntry(NamedTuple):
    """The last journal entry that the tables account for, by which an index knows its journal: a
    tail that was cut, or an older copy put back, may have grown past the mark since.
    """

    place: int
    digest: bytes

    @classmethod
    def of(cls, place: int, body: bytes) -> LastEntry:
        """Return the entry at ``place`` with that body."""
        return cls(place, sha256(body).digest())


@dataclass(slots=True)
class Batch:
    """The rows of one transaction, and the journal offset up to which they account for
    everything.
    """

    mark: int
    records: list[RecordRow] = field(default_factory=list[RecordRow])
    edges: list[EdgeRow] = field(default_factory=list[EdgeRow])
    bundles: list[BundleRow] = field(default_factory=list[BundleRow])
    bodiless: list[BodilessRow] = field(default_factory=list[BodilessRow])
    moves: list[Move] = field(default_factory=list[Move])
    """Applied before the rows of this batch are added: a move concerns only what came before it."""
    dropped: list[DroppedRow] = field(default_factory=list[DroppedRow])
    """Applied before the rows of this batch are added, as moves are."""
    entries: int = 0
    last: LastEntry | None = None

    @property
    def is_full(self) -> bool:
        """Whether the transaction should be closed."""
        rows = len(self.records) + len(self.bodiless)
        return rows >= MAX_BATCH_RECORDS or self.entries >= MAX_BATCH_ENTRIES


def read_batch(entries: Iterable[JournalEntry], end: int, own: bytes) -> Batch:
    """Return the rows of the next ``entries``, which cover the journal up to ``end`` at least;
    ``own`` is the public key that signs this journal's own records.
    """
    batch = Batch(mark=0)
    last: tuple[int, bytes] | None = None
    for offset, end_offset, kind, body in entries:
        if kind in (Entry.EPOCH, Entry.DROPPED) and (batch.records or batch.bundles):
            break  # they must be in the tables before they can move or go
        _add(batch, kind, body, offset, own)
        last = (offset, body)
        batch.mark = end_offset
        batch.entries += 1
        if batch.is_full:
            break
    else:
        batch.mark = max(batch.mark, end)  # what is left holds nothing that we know
    batch.last = last and LastEntry.of(*last)
    return batch


# What is in a journal was checked before it went in, so here nothing is checked again.


def _add(batch: Batch, kind: int, body: bytes, place: int, own: bytes) -> None:
    if kind == Entry.RECORD:
        epoch, sequence, encoded, digest = RecordBody.decode(body)
        if digest:
            cid = CID.of_digest(digest)
            batch.bodiless.append(BodilessRow(cid, own, epoch, sequence, place))
        else:
            _add_record(batch, encoded, (own, epoch, sequence), place)
    elif kind == Entry.HEADER:
        encoded_header = HeaderBody.decode(body).header
        header = Header.decode_verified(encoded_header)
        batch.bundles.append(_bundle_row(header, CID.of(encoded_header), place))
    elif kind == Entry.EPOCH:
        batch.moves.append(Move(own, *EpochBody.decode(body)))
    elif kind == Entry.DROPPED:
        told = DroppedBody.decode(body)
        row = DroppedRow(told.feed, told.epoch, told.next_sequence, told.aggregator)
        batch.dropped.append(row)
    elif kind == Entry.BUNDLE:
        bundle = Bundle.decode_verified(body)
        header = bundle.header
        batch.bundles.append(_bundle_row(header, bundle.cid, place))
        at = (header.feed, header.epoch)
        for sequence, encoded in enumerate(bundle.records, header.first_sequence):
            if encoded:
                _add_record(batch, encoded, (*at, sequence), place)
        batch.bodiless += [
            BodilessRow(cid, *at, sequence, place) for sequence, cid in bundle.absent.items()
        ]


def _bundle_row(header: Header, cid: CID, place: int) -> BundleRow:
    return BundleRow(
        cid, header.feed, header.epoch, header.first_sequence, header.next_sequence, place
    )


def _add_record(batch: Batch, encoded: bytes, at: Place, place: int) -> None:
    row, links = rows_of(encoded, at, place)
    batch.records.append(row)
    batch.edges += links


def rows_of(encoded: bytes, at: Place, place: int) -> tuple[RecordRow, list[EdgeRow]]:
    """Return the row and the links of a checked record's bytes, ``at`` (feed, epoch, sequence) in
    the entry at ``place``.
    """
    record = outline_verified(encoded)
    cid = CID.of(encoded)
    row = RecordRow(
        cid,
        *at,
        record.kind,
        record.start_us,
        record.duration_us,
        record.status,
        record.environment,
        record.hardware,
        record.attributes,
        place,
    )
    return row, [EdgeRow(cid, *link) for link in record.links]
