"""Goes back from index rows to the signed bytes in the journal, because an index proves nothing.

A record is verified when the journal holds a header that the feed's own key signed and that commits
to the record's digest, and the record's bytes have that digest. All of it is checked when it is
asked: a flipped bit on disk or a forged index shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from peer.excerpts import EntryAt, Found
from peer.rows import BundleRow, EdgeRow, RecordRow, rows_of
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, SignedHeader
from protocols.journal import Entry, HeaderBody, RecordBody
from protocols.record import Record

BundlesOver = Callable[[bytes, int, int], list[BundleRow]]
"""The bundles that cover (feed, epoch, sequence)."""


class _Proof(NamedTuple):
    """What one bundle proves: that ``feed`` signed the records of these CIDs from a place on."""

    feed: bytes
    epoch: int
    first_sequence: int
    cids: tuple[bytes, ...]

    def covers(self, row: RecordRow) -> bool:
        at = row.sequence - self.first_sequence
        return (
            (self.feed, self.epoch) == (row.feed, row.epoch)
            and 0 <= at < len(self.cids)
            and self.cids[at] == row.cid
        )


class Evidence:
    """Checks records of one answer; each bundle is read and verified once."""

    def __init__(self, entry_at: EntryAt, bundles_over: BundlesOver) -> None:
        self._entry_at = entry_at
        self._bundles_over = bundles_over
        self._proofs: dict[int, _Proof | None] = {}

    def verify(
        self, rows: Iterable[RecordRow], links: Mapping[bytes, Iterable[EdgeRow]]
    ) -> dict[bytes, bool]:
        """Return for each record whether signed bytes for it are in the journal, hold, and say
        everything that the index shows of it.
        """
        return {row.cid: self._is_proven(row, links.get(row.cid, ())) for row in rows}

    def _is_proven(self, row: RecordRow, links: Iterable[EdgeRow]) -> bool:
        entry = self._entry_at(row.place)
        if entry is None:
            return False
        if entry[0] is Entry.BUNDLE:
            is_signed = self._proves(row.place, row)
        else:
            bundles = self._bundles_over(row.feed, row.epoch, row.sequence)
            is_signed = any(self._proves(bundle.place, row) for bundle in bundles)
        return is_signed and _says(_bytes_of(entry, row), row, links)

    def _proves(self, place: int, row: RecordRow) -> bool:
        if place not in self._proofs:
            self._proofs[place] = _read_proof(self._entry_at(place))
        proof = self._proofs[place]
        return proof is not None and proof.covers(row)


def is_whole(row: RecordRow, entry_at: EntryAt) -> bool:
    """Tell whether the journal still has the bytes of a row's record, by their digest; whether
    anybody signed them is not asked.
    """
    entry = entry_at(row.place)
    encoded = None if entry is None else _bytes_of(entry, row)
    return encoded is not None and CID.of(encoded) == row.cid


def _bytes_of(entry: Found, row: RecordRow) -> bytes | None:
    """Return the record's bytes in its journal entry; our own records and headers lie apart."""
    kind, body = entry
    try:
        if kind is Entry.RECORD:
            return RecordBody.decode(body).record
        if kind is Entry.BUNDLE:
            bundle = Bundle.decode(body)
            return bundle.records[row.sequence - bundle.header.first_sequence]
    except (RemoteProtocolError, IndexError):
        pass  # no whole record is there
    return None


def _says(encoded: bytes | None, row: RecordRow, links: Iterable[EdgeRow]) -> bool:
    """Tell whether a record's bytes are those of ``row`` and say what it and ``links`` show."""
    if encoded is None or CID.of(encoded) != row.cid:
        return False
    Record.decode(encoded)  # whole and canonical: its author vouched for these bytes, we do not
    told, its_links = rows_of(encoded, (row.feed, row.epoch, row.sequence), row.place)
    return told == row and set(links) <= set(its_links)


def _read_proof(entry: Found | None) -> _Proof | None:
    """Verify a bundle or a header of ours; none when it does not hold."""
    if entry is None:
        return None
    kind, body = entry
    try:
        if kind is Entry.BUNDLE:
            bundle = Bundle.decode(body)
            return _proof(bundle.header_bytes, bundle.signature)
        if kind is Entry.HEADER:
            return _proof(*HeaderBody.decode(body))
    except RemoteProtocolError:
        pass  # whatever else it is, it proves nothing
    return None


def _proof(header_bytes: bytes, signature: bytes) -> _Proof:
    header = SignedHeader.decode(header_bytes, signature).header
    cids = tuple(CID.of_digest(digest) for digest in header.digests)
    return _Proof(header.feed, header.epoch, header.first_sequence, cids)
