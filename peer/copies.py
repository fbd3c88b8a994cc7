"""Which of the copies that the journal has of a record answers for it: the one judgment by which
every reader says whether a record is here and proven.

A bundle may lie in the journal more than once: at first without some bodies, damaged, or in the
parts in which we wrote our own, and later whole. A record is proven when any of them has bytes of
its digest under a header that its author signed. All of it is checked when it is asked, for an
index proves nothing. Everything blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from peer.rows import BodilessRow, BundleRow, RecordRow
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, SignedHeader
from protocols.journal import Entry, HeaderBody, RecordBody
from protocols.record import Record

Found = tuple[Entry, bytes]
EntryAt = Callable[[int], Found | None]
"""Kind and body of the whole entry that starts at a journal offset, if there is one."""


class Places(Protocol):
    """What an index says of where something lies."""

    def bundles_over(self, feed: bytes, epoch: int, sequence: int, /) -> list[BundleRow]:
        """Return the bundles whose range covers one place of a feed, at each place where they were
        kept.
        """
        ...

    def places(self, cids: Iterable[bytes], /) -> list[RecordRow]:
        """Return the rows of these records, one for each place at which a body stands."""
        ...


class Copy(NamedTuple):
    """A record's bytes and the header that proves them."""

    signed: SignedHeader
    encoded: bytes
    record: Record


class _Opened(NamedTuple):
    """A bundle in the journal whose signature holds; without bodies it is one of our own, whose
    records lie apart.
    """

    signed: SignedHeader
    carried: Sequence[bytes]

    def place_of(self, row: RecordRow | BodilessRow) -> int | None:
        """Return at which of its places the header names this record; none if it does not."""
        header = self.signed.header
        at = row.sequence - header.first_sequence
        is_named = (
            (header.feed, header.epoch) == (row.feed, row.epoch)
            and 0 <= at < len(header.digests)
            and header.digests[at] == CID(row.cid).digest
        )
        return at if is_named else None


class Copies:
    """Reads what rows tell of; rows of one bundle should be neighbours, for it is then verified
    once.
    """

    def __init__(self, entry_at: EntryAt, index: Places) -> None:
        self._entry_at = entry_at
        self._index = index
        self._last: _Opened | None = None

    def of(self, row: RecordRow) -> Copy | None:
        """Return the copy that answers for a record; none when no whole and proven one is here."""
        for each in self._rows(row):
            for opened in self._over(each):
                copy = self._copy(opened, each)
                if copy is not None:
                    self._last = opened
                    return copy
        return None

    def _rows(self, row: RecordRow) -> Iterator[RecordRow]:
        """Yield a record's row, then where else it stands: what is unsigned when its feed moves to
        another epoch may have been signed before.
        """
        yield row
        yield from (each for each in self._index.places([row.cid]) if each.place != row.place)

    def header_of(self, row: RecordRow | BodilessRow) -> SignedHeader | None:
        """Return a header that names a record, whether the body is here or not."""
        for opened in self._over(row):
            self._last = opened
            return opened.signed
        return None

    def _over(self, row: RecordRow | BodilessRow) -> Iterator[_Opened]:
        """Yield the whole bundles that name a record at its place: the last one that answered, the
        one in which the row stands, then what came later first.
        """
        last = self._last
        if last is not None and last.place_of(row) is not None:
            yield last
        for place in self._places(row):
            opened = _opened(self._entry_at(place))
            if opened is not None and opened.place_of(row) is not None:
                yield opened

    def _places(self, row: RecordRow | BodilessRow) -> Iterator[int]:
        yield row.place  # no index need be asked when that one answers, as it mostly does
        bundles = self._index.bundles_over(row.feed, row.epoch, row.sequence)
        yield from sorted({each.place for each in bundles} - {row.place}, reverse=True)

    def _copy(self, opened: _Opened, row: RecordRow) -> Copy | None:
        at = opened.place_of(row)
        assert at is not None
        encoded = opened.carried[at] if opened.carried else self._apart(row)
        if not encoded or CID.of(encoded) != row.cid:
            return None
        try:
            record = Record.decode(encoded)  # its author vouched for these bytes, we do not
        except RemoteProtocolError:
            return None
        return Copy(opened.signed, encoded, record)

    def _apart(self, row: RecordRow) -> bytes | None:
        entry = self._entry_at(row.place)
        return RecordBody.decode(entry[1]).record if entry and entry[0] is Entry.RECORD else None


def is_whole(row: RecordRow, entry_at: EntryAt) -> bool:
    """Tell whether the journal has a record's bytes where its row says, by their digest; whether
    anybody signed them is not asked: our latest ones nobody has yet.
    """
    entry = entry_at(row.place)
    encoded = None if entry is None else _bytes_of(entry, row)
    return encoded is not None and CID.of(encoded) == row.cid


def _bytes_of(entry: Found, row: RecordRow) -> bytes | None:
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


def _opened(entry: Found | None) -> _Opened | None:
    """Verify a bundle or a header of ours; none when it does not hold."""
    if entry is None:
        return None
    kind, body = entry
    try:
        if kind is Entry.BUNDLE:
            bundle = Bundle.decode(body)
            signed = SignedHeader(bundle.header_bytes, bundle.signature, bundle.header)
            return _Opened(signed, bundle.records)
        if kind is Entry.HEADER:
            return _Opened(SignedHeader.decode(*HeaderBody.decode(body)), ())
    except RemoteProtocolError:
        pass  # whatever else it is, it proves nothing
    return None
