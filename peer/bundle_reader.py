"""Reads held bundles from the journal, where those of others lie whole and our own in parts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from peer.journal import Journal, JournalDamagedError, JournalErasedError
from protocols.cid import CID
from protocols.feed import Bundle, encode_bundle
from protocols.journal import Entry, HeaderBody, RecordBody


class Arrival(NamedTuple):
    """One journal entry, and the bundle that is complete with it, if any."""

    end_offset: int
    cid: CID | None = None
    bundle: bytes | None = None


class BundleReader:
    """A bundle by the offset of its entry, or of its header if it is our own."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.own: dict[int, array[int]] = {}
        """Where the records of each bundle of ours are, by the offset of its header."""

    def read(self, offset: int) -> bytes | None:
        """Return a bundle's bytes, none if they were erased; raises ``JournalDamagedError`` when
        the disk has damaged them.
        """
        records = self.own.get(offset)
        try:
            entry = self._journal.entry(offset)
            if records is not None:
                return self._assembled(entry.body, records)
            return entry.body if entry.kind == Entry.BUNDLE else None  # ours, and just dropped
        except JournalErasedError:
            return None

    def first_entry(self, offset: int) -> int:
        """Return where the first of the entries is that a bundle is read from."""
        return self.own[offset][0] if offset in self.own else offset

    def entries_of(self, offset: int) -> Sequence[int]:
        """Return where each entry is that a bundle is read from."""
        return [*self.own.get(offset, ()), offset]

    def arrivals(self, offset: int) -> Iterator[Arrival]:
        """Yield every journal entry from ``offset`` on, with its bundle if it completes one."""
        for entry_offset, end_offset, kind, body in self._journal.scan(offset):
            if kind == Entry.BUNDLE:
                yield Arrival(end_offset, Bundle.decode_verified(body).cid, body)
            elif kind == Entry.HEADER and entry_offset in self.own:
                cid = CID.of(HeaderBody.decode(body).header)
                yield Arrival(end_offset, cid, self._read_whole(entry_offset))
            else:
                yield Arrival(end_offset)

    def _read_whole(self, offset: int) -> bytes | None:
        try:
            return self.read(offset)
        except JournalDamagedError:
            return None

    def _assembled(self, body: bytes, records: array[int]) -> bytes:
        header, signature = HeaderBody.decode(body)
        entries = [RecordBody.decode(self._journal.read(at)) for at in records]
        return encode_bundle(header, signature, [entry.record for entry in entries])
