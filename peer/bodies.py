"""Which bodies of held bundles are absent here, and which are redacted and not erased yet.

In memory are only what tombstones say, the absences that somebody may fill, and what is left to
erase. ``note`` is told of every bundle once it is on the disk, at start and later, in any order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import trio

from peer.absences import Absences, FeedEpoch
from peer.statement_places import HeldBundle, StatementPlaces
from protocols.chain import Chain
from protocols.cid import CID
from protocols.feed import ABSENT, Bundle, Header, absent_in
from protocols.keys import peer_id_of
from protocols.limits import MAX_ERASED_TOGETHER
from protocols.record import Record, kind_of
from protocols.tombstone import STATEMENT_KINDS, mentions_redaction

log = logging.getLogger(__name__)


class Unshown(NamedTuple):
    """A tombstone, or a certificate by which tombstones count, of which the signed bytes are not
    here any more: what it says still holds here, and nobody can be shown why.
    """

    cid: CID
    author: bytes
    is_certificate: bool
    records: tuple[CID, ...]
    """What it redacts, or helps to."""
    is_kept: bool
    """Whether it still holds after the next start."""


class Bodies(Absences):
    """Absent, present, redacted: what one peer knows of the bodies under the headers that it
    holds.
    """

    def __init__(self, mesh: bytes | None, chains: Mapping[FeedEpoch, Chain]) -> None:
        super().__init__(mesh, chains)
        self._places = StatementPlaces()
        self._excessive: set[bytes] = set()
        """Whom the log has told of."""
        self._pending: dict[CID, int] = {}
        self._stirred = trio.Event()

    def note(self, header: Header, cid: CID, records: Sequence[bytes], offset: int) -> None:
        """Take in a bundle that is on the disk, at that offset of the journal, and in its chain;
        again when it was filled.
        """
        held = HeldBundle(header.feed, header.epoch, cid.digest)
        absent = absent_in(header, records)
        if absent or held in self._absent:
            self._note_absent(held, absent)
        if len(self.redactions):
            self._stir(self._to_erase(header, records), offset)
        if mentions_redaction(b"".join(records)):
            self._note_statements(held, header.first_sequence, records, offset)

    def _note_statements(
        self, held: HeldBundle, first_sequence: int, records: Sequence[bytes], offset: int
    ) -> None:
        statements = {
            CID.of(record): record
            for record in records
            if record and kind_of(record) in STATEMENT_KINDS
        }
        self._places.note(held, first_sequence, statements)
        for cid, statement in statements.items():
            if self._take(statement, held.feed, offset):
                self._places.come_across(cid, offset)
            self.redactions.hold(held.feed, cid)
        self._wake()

    def note_cut(self, header: Header, absent: Iterable[CID], offset: int) -> None:
        """Take in, at start, that records of ours were redacted before that header of theirs was
        written. Their bodies are gone from the journal; whether they are from what was made of it,
        only a later ``erased`` tells.
        """
        redacted = (cid for cid in absent if self.redactions.of(cid, header.feed) is not None)
        self._stir(redacted, offset)

    def recall(self, kept: bytes, offset: int) -> bool:
        """Take in a stored record that redacts, or a certificate, whose bundle was dropped, is
        damaged or not noted yet; say whether it is one that counts, and not something else that is
        stored under the same kinds of entry.
        """
        if not mentions_redaction(kept) or kind_of(kept) not in STATEMENT_KINDS:
            return False
        counts = self._take(kept, Record.decode_verified(kept).author, offset)
        if counts:
            self._places.come_across(CID.of(kept), offset)
        return counts

    def keep(self, statement: bytes, offset: int) -> None:
        """Take in that the journal has a tombstone or certificate apart from its bundle, there."""
        self._places.keep(CID.of(statement), offset)

    def lose_copies(self, is_gone: Callable[[int], bool]) -> None:
        """Take in that what ``keep`` told of is not whole any more at the offsets of which
        ``is_gone`` says so.
        """
        self._places.lose_copies(is_gone)
        self._wake()

    @property
    def kept(self) -> Set[CID]:
        """The statements that the journal has apart from their bundles."""
        return self._places.copied

    def copies_of(self, statement: CID) -> tuple[int, ...]:
        """Return at which offsets the journal has a statement apart from its bundles."""
        return self._places.copies_of(statement)

    def unkept(self, cids: Iterable[CID]) -> set[CID]:
        """Return the tombstones and certificates by which these records are redacted and that the
        journal has in their bundles alone.
        """
        return self.redactions.statements_about(cids) - self.kept

    def entry_of(self, statement: CID) -> int | None:
        """Return where the journal had a statement that is not kept when it came."""
        return self._places.entry_of(statement)

    def is_kept(self, cid: CID) -> bool:
        """Say whether what redacts a record is kept, so far that it is redacted after a start
        whatever bundles were damaged before.
        """
        return self.redactions.is_shown_by(self.kept, cid)

    def to_keep(self) -> list[CID]:
        """Return the statements that the journal had apart from their bundles, until it was
        damaged, and has in those.
        """
        return self._places.to_copy()

    def unshown(self) -> list[Unshown]:
        """Return the statements of which no bundle is held any more and that something here is
        redacted by, in the order of their CIDs.
        """
        gone = self._places.unheld
        if not gone:
            return []
        redacts: dict[tuple[CID, bytes, bool], list[CID]] = {}
        for cid in self.redactions.named():
            for each in self.redactions.about(cid):
                for statement in (each.tombstone, each.certificate):
                    if statement is not None and statement in gone:
                        found = statement, each.by, statement == each.certificate
                        redacts.setdefault(found, []).append(cid)
        kept = self.kept
        return [
            Unshown(*found, tuple(cids), found[0] in kept)
            for found, cids in sorted(redacts.items(), key=itemgetter(0))
        ]

    def _take(self, statement: bytes, feed: bytes, offset: int) -> bool:
        """Say whether it is one of those that count, as far as is known by now."""
        self._changed(self.redactions.take(statement, feed), feed, offset)
        passed_over = self.redactions.take_passed_over()
        for each in passed_over:
            self._places.drop(each)
        if passed_over and feed not in self._excessive:
            self._excessive.add(feed)
            log.warning("redacts more than counts", extra={"feed": peer_id_of(feed)})
        return CID.of(statement) not in passed_over

    def forget(self, feed: bytes, epoch: int, header: bytes) -> None:
        """Take in that the bundle with that header is held no longer: nobody fills it."""
        held = HeldBundle(feed, epoch, header)
        self._forget_absent(held)
        for statement in self._places.forget(held):
            self.redactions.release(statement)

    def _to_erase(self, header: Header, records: Sequence[bytes]) -> list[CID]:
        named = zip(map(CID.of_digest, header.digests), records, strict=True)
        return [
            cid
            for cid, record in named
            if record and self.redactions.applies(record, cid, header.feed)
        ]

    def _changed(self, cids: Iterable[CID], by: bytes, offset: int) -> None:
        self._judge_those_with(cids)
        self._stir((cid for cid in cids if self.redactions.of(cid, by) is not None), offset)

    def _stir(self, cids: Iterable[CID], offset: int) -> None:
        for cid in cids:  # what was recalled may be told of earlier places than are known
            self._pending[cid] = max(self._pending.get(cid, offset), offset)
        self._wake()

    def _wake(self) -> None:
        if self._pending or self.to_keep():
            self._stirred.set()

    def strip(self, bundle: Bundle) -> Bundle:
        """Return a bundle without the bodies that nobody may keep any more."""
        if not len(self.redactions):
            return bundle
        erased = set(self._to_erase(bundle.header, bundle.records))
        if not erased:
            return bundle
        named = zip(map(CID.of_digest, bundle.header.digests), bundle.records, strict=True)
        return bundle.with_records(ABSENT if cid in erased else record for cid, record in named)

    # Erasing

    @property
    def pending(self) -> frozenset[CID]:
        """Redacted records whose bodies may still be on this disk."""
        return frozenset(self._pending)

    def is_pending(self, cids: Iterable[CID]) -> bool:
        """Say whether any of these is in ``pending``."""
        return any(cid in self._pending for cid in cids)

    def erased(self, cids: Iterable[CID], mark: int) -> None:
        """Take in that these bodies are nowhere before ``mark`` in the journal any more. What has
        been noted behind it is still to be erased.
        """
        for cid in cids:
            if self._pending.get(cid, mark) < mark:
                del self._pending[cid]

    def defer(self, cids: Iterable[CID]) -> None:
        """Let whatever else is pending come before these."""
        for cid in cids:
            if (offset := self._pending.pop(cid, None)) is not None:
                self._pending[cid] = offset

    def bundles_of(self, statement: CID) -> list[tuple[HeldBundle, int]]:
        """Return in which held bundles a tombstone or certificate is, and the first sequence of
        each.
        """
        return self._places.bundles_of(statement)

    async def wait_pending(self) -> frozenset[CID]:
        """Return what is to be erased once there is anything: the first of it, if it is much; and
        nothing, once there is anything ``to_keep`` alone.
        """
        while not self._pending and not self.to_keep():
            self._stirred = trio.Event()
            await self._stirred.wait()
        return frozenset(islice(self._pending, MAX_ERASED_TOGETHER))
