"""What this peer holds, and how it grows: by our own records and bundles, and by others' bundles.

All of it is rebuilt from one scan of the journal at start. Holding is a set: adding a bundle again,
in another order or from several sides at once changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

import trio

from peer.acknowledged import FeedEpoch
from peer.effects import Effects
from peer.held_feeds import HeldFeeds
from peer.journal import (
    Journal,
    JournalError,
    JournalFullError,
    Pending,
)
from peer.own_feed import OnRefused, OwnBundle, OwnFeed
from protocols.ack import SignedAck
from protocols.chain import Dropped, Link
from protocols.cid import CID
from protocols.feed import Bundle, Header, SignedHeader, absent_in
from protocols.journal import (
    DroppedBody,
    Entry,
    EpochBody,
    ErasedBody,
    HeaderBody,
    RecordBody,
)
from protocols.keys import SigningKey, peer_id_of
from protocols.loss import Loss, loss_in
from protocols.record import Record

log = logging.getLogger(__name__)


class Added(Enum):
    """What became of a bundle that was offered."""

    NEW = auto()
    DUPLICATE = auto()
    FORK = auto()
    """New, kept, and in conflict with one held: its author signed two truths."""
    FILLED = auto()
    """Held before, and kept again with bodies that were absent."""
    REFUSED = auto()
    """Not kept: its feed has begun more epochs than anyone keeps of one, or too many bodies that
    nobody redacted would be absent here.
    """


class Feeds(HeldFeeds):
    """What this peer holds, and the only way to add to it.

    ``run`` cuts our own bundles. Everything else may be called before it starts; what waits for the
    disk needs the journal's ``run``.
    """

    def __init__(
        self, journal: Journal, key: SigningKey, effects: Effects, mesh: bytes | None = None
    ) -> None:
        """``mesh`` is the root by which others' certificates are judged; see ``Bodies``."""
        super().__init__(journal, key, mesh)
        self.effects = effects
        self._own = OwnFeed(journal, key, effects, self._index_own)
        self._adding: dict[bytes, tuple[Pending, Bundle]] = {}
        self._partial: list[SignedHeader] = []
        """Cuts found at the start of which a record is gone: rotted away, or dropped."""
        self._losses: list[Loss] = []
        self._replay()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cut our own bundles as they fall due, until cancelled."""
        await self._own.run(task_status=task_status)

    # Our own feed

    @property
    def epoch(self) -> int:
        """The epoch in which our own feed goes on."""
        return self._own.epoch

    @property
    def next_sequence(self) -> int:
        """The sequence number that our next record gets."""
        return self._own.next_sequence

    @property
    def place(self) -> tuple[int, int]:
        """Our epoch and how far in it we have signed; hello tells this to others."""
        return self._own.place

    @property
    def claimed(self) -> tuple[int, int]:
        """The furthest place at which others saw our feed: we go on above it, now or as soon as the
        bundle that is being cut is.
        """
        return self._own.claimed

    @property
    def settled_at(self) -> int:
        """Where the journal has our last signature or move to another epoch: while that is whole,
        nothing is signed twice, whatever is damaged elsewhere.
        """
        return self._own.settled_at

    def start_epoch_above(self, epoch: int, next_sequence: int) -> None:
        """Neighbours saw our feed at that place: go on above it if we never came so far."""
        self._own.rise_above(epoch, next_sequence)

    def allow_cutting(self) -> None:
        """Let ``run`` cut without waiting longer: a neighbour met us and said how far it saw us."""
        self._own.allow_cutting()

    def stop_signing(self) -> None:
        """Sign nothing any more, for another instance of our key is alive; records are still kept,
        and what is held is still served.
        """
        self._own.is_stopped = True

    @property
    def is_signing(self) -> bool:
        """Whether we still sign."""
        return not self._own.is_stopped

    async def append(self, record: Record) -> CID:
        """Add a record of ours; return its CID once it is on the disk.

        Raises ``JournalFullError`` when it was refused, ``LocalProtocolError`` when it breaks a
        limit.
        """
        return await self._own.append(record)

    async def append_soon(self, record: Record, refused: OnRefused) -> CID:
        """Add a record of ours without waiting for the disk, in front of all that follow; a crash
        may lose it, and ``refused`` is told if the disk did not take it.
        """
        return await self._own.append_soon(record, refused)

    async def cut(self) -> Bundle | None:
        """Sign and journal our next bundle now; none when no record is waiting for one."""
        return await self._own.cut()

    async def cut_all(self) -> None:
        """Put every durable record of ours into a bundle; on a full disk that waits for the next
        start.
        """
        try:
            while await self._own.cut() is not None:
                pass
        except JournalFullError as error:
            log.warning("bundle not cut", extra={"code": error.code})

    def holds_block(self, cid: CID) -> bool:
        """Say whether our own feed has that block already."""
        return self._own.holds_block(cid)

    # Other feeds

    async def add(self, bundle: Bundle) -> Added:
        """Add a bundle that ``Bundle.decode`` made; it is on the disk when this returns."""
        return (await self.add_all([bundle]))[0]

    async def add_all(self, bundles: Iterable[Bundle]) -> list[Added]:
        """Add bundles under one fsync; each is on the disk when this returns, whoever brought it.

        Cancelled, each may or may not be kept. One feed's surplus epochs and absent bodies are
        left out, so that they hold up nobody else's. Raises ``JournalFullError`` when the disk is
        full and ``RemoteProtocolError`` when there would be more feeds than memory should hold.
        """
        outcomes: list[Added] = []
        pending: list[Pending] = []
        for bundle in map(self.bodies.strip, bundles):
            await self._settle_other_form(bundle)
            key = (bundle.header.feed, bundle.header.epoch)
            if bundle.cid in self._adding:
                outcomes.append(Added.DUPLICATE)
                pending.append(self._adding[bundle.cid][0])
            elif self._holds(key, bundle):
                filled = self._filled(key, bundle)
                if filled is None:
                    outcomes.append(Added.DUPLICATE)
                else:
                    pending.append(self._begin(filled, outcomes, Added.FILLED))
            elif not self._admits(key, bundle):
                outcomes.append(Added.REFUSED)
            else:
                pending.append(self._begin(bundle, outcomes, Added.NEW))
        for entry in pending:
            await entry.wait()
        return outcomes

    def _admits(self, key: FeedEpoch, bundle: Bundle) -> bool:
        if not self.bodies.admits(bundle.header, bundle.absent):
            if not self.refused_absent:  # one line: the count tells of the others
                log.warning("too many absent bodies", extra={"feed": peer_id_of(key[0])})
            self.refused_absent += 1
            return False
        return self._epochs.admit(key)

    async def _settle_other_form(self, bundle: Bundle) -> None:
        """Return when nothing is on its way to the disk that lacks a body of this bundle, which
        would be taken for the same.
        """
        while adding := self._adding.get(bundle.cid):
            pending, other = adding
            if not other.absent.keys() - bundle.absent.keys():
                return
            await pending.wait()

    def _begin(self, bundle: Bundle, outcomes: list[Added], outcome_if_kept: Added) -> Pending:
        index = len(outcomes)
        outcomes.append(outcome_if_kept)

        def settle(outcome: int | JournalError) -> None:
            del self._adding[bundle.cid]
            if not isinstance(outcome, JournalError) and self._enter(bundle, outcome):
                outcomes[index] = Added.FORK

        pending = self._journal.append_soon(Entry.BUNDLE, bundle.encode(), settle)
        self._adding[bundle.cid] = pending, bundle
        return pending

    def _enter(self, bundle: Bundle, offset: int) -> bool:
        """Take in a durable bundle, or one that was filled; say whether it makes a fork. One of
        which the place was dropped while it was on its way is left alone.
        """
        key = (bundle.header.feed, bundle.header.epoch)
        if self.is_dropped(*key, bundle.header.first_sequence):
            return False
        is_fork = False
        if self._holds(key, bundle):
            self._chains[key].move(Link.of(bundle.header, bundle.cid.digest, offset))
            self._note_change()
        else:
            is_fork = self._index(bundle.header, bundle.cid, offset)
        self._note(bundle.header, bundle.cid, bundle.records, offset)
        return is_fork

    def _filled(self, key: FeedEpoch, bundle: Bundle) -> Bundle | None:
        """Return a held bundle with the bodies that it lacked; none when nothing is to be filled
        or the held one cannot be read.
        """
        if not self.bodies.would_fill(bundle.header, bundle.cid, bundle.absent):
            return None
        link = self._chains[key].find(bundle.header.first_sequence, bundle.cid.digest)
        held = None if link is None else self.read(link)
        if held is None:
            return None
        pairs = zip(Bundle.decode_verified(held).records, bundle.records, strict=True)
        filled = bundle.with_records(ours or theirs for ours, theirs in pairs)
        return self.bodies.strip(filled)  # ours may hold what is about to be erased

    # Acknowledgements

    def acknowledged_sequence(self) -> int:
        """Return up to which sequence of our current epoch an aggregator holds our records."""
        return self.acked.get((self.key.public, self.epoch), 0)

    async def acknowledge(self, ack: SignedAck) -> None:
        """Journal an aggregator's verified acknowledgement, if it says anything new; what it says
        beyond what is held here does not count.
        """
        bounded = self.acknowledged.bounded(ack)
        if self.acknowledged.is_news(bounded):
            await self._journal.append(Entry.ACK, bounded.encode())
            self.acknowledged.note(bounded)

    # Letting go

    async def drop(self, key: FeedEpoch, last: Link) -> None:
        """Let go of a feed's epoch up to and with ``last``, one of ``droppable``. On return that is
        on the disk; the bytes may be erased whenever it suits.
        """
        by = self.acknowledged.by[key]
        dropped = Dropped(last.next_sequence, last.digest, by)
        await self._journal.append(Entry.DROPPED, DroppedBody(*key, *dropped).encode())
        self._let_go(key, dropped)

    def uncut_offsets(self) -> set[int]:
        """Return where the journal has our records that no bundle holds yet."""
        return set(self._own.uncut_offsets)

    # Rebuilding and indexing

    def _replay(self) -> None:
        replay: dict[Entry, Callable[[int, bytes], None]] = {
            Entry.RECORD: self._replay_record,
            Entry.HEADER: self._replay_header,
            Entry.EPOCH: self._replay_epoch,
            Entry.BUNDLE: self._replay_bundle,
            Entry.ACK: self._replay_ack,
            Entry.ERASED: self._replay_erased,
            Entry.DROPPED: self._replay_dropped,
            Entry.KEPT: self._replay_kept,
        }
        for offset, _, kind, body in self._journal.scan():
            if kind in replay:
                replay[kind](offset, body)
        for signed in self._partial:
            header = signed.header
            key, place = (header.feed, header.epoch), (header.first_sequence, signed.cid)
            is_back = self.holds(key, *place)  # or dropped
            if not is_back and not any(loss.covers(header) for loss in self._losses):
                log.error("bundle damaged on disk", extra=self._described(key, header))
                self._damaged.add((key, header.first_sequence, signed.cid.digest))
        self._partial.clear()
        self._losses.clear()
        self._own.resume()
        self._note_recalled()  # a certificate may have been in the last entry, without its bundle

    def _replay_record(self, offset: int, body: bytes) -> None:
        told = RecordBody.decode(body)
        self._own.replay_record(offset, told)
        if (loss := loss_in(told.record)) is not None:
            self._losses.append(loss)
        self.bodies.recall(told.record, offset)  # of a dropped one, the header may be gone already

    def _replay_header(self, offset: int, body: bytes) -> None:
        cut = self._own.replay_header(offset, HeaderBody.decode(body))
        if cut is not None:
            self._index_own(cut)
        else:
            self._partial.append(_unchecked(HeaderBody.decode(body)))

    def _replay_epoch(self, offset: int, body: bytes) -> None:
        self._own.replay_epoch(offset, EpochBody.decode(body))

    def _replay_bundle(self, offset: int, body: bytes) -> None:
        self._enter(Bundle.decode_verified(body), offset)

    def _replay_erased(self, offset: int, body: bytes) -> None:
        erased = ErasedBody.decode(body)
        self.bodies.erased(map(CID, erased.cids), erased.mark)

    def _replay_kept(self, offset: int, body: bytes) -> None:
        if self.bodies.recall(body, offset):
            self.bodies.keep(body, offset)

    def _replay_ack(self, offset: int, body: bytes) -> None:
        self.acknowledged.note(SignedAck.decode(body))

    def _replay_dropped(self, _offset: int, body: bytes) -> None:
        told = DroppedBody.decode(body)
        dropped = Dropped(told.next_sequence, told.digest, told.aggregator)
        self._let_go((told.feed, told.epoch), dropped)
        if told.feed == self.key.public:
            self._own.replay_dropped(told.epoch, told.next_sequence)

    def _index_own(self, cut: OwnBundle) -> None:
        self.reader.own[cut.header_offset] = cut.record_offsets
        self._index(cut.header, cut.cid, cut.header_offset)
        self._note(cut.header, cut.cid, cut.records, cut.header_offset)
        absent = absent_in(cut.header, cut.records)
        self.bodies.note_cut(cut.header, absent.values(), cut.header_offset)

    def _note(self, header: Header, cid: CID, records: Sequence[bytes], offset: int) -> None:
        self.bodies.note(header, cid, records, offset)
        self._note_recalled()

    def _note_recalled(self) -> None:
        """Take in, of an author who shows only now that all its tombstones count, those that were
        passed over.
        """
        for author in self.bodies.redactions.take_recalled():
            for link in self._links_of(author):
                if (held := self.read(link)) is not None:
                    bundle = Bundle.decode_verified(held)
                    self.bodies.note(bundle.header, bundle.cid, bundle.records, link.offset)

    def _links_of(self, feed: bytes) -> list[Link]:
        return [link for key, chain in self._chains.items() if key[0] == feed for link in chain]

    def _index(self, header: Header, cid: CID, offset: int) -> bool:
        """Enter a durable bundle; say whether it is in conflict with another one."""
        is_fork = self._hold(header, cid, offset)
        if header.feed == self.key.public and offset not in self.reader.own:
            # Our own signature on what we do not remember signing: we lost a journal.
            self._own.rise_above(header.epoch, header.next_sequence)
        return is_fork


def _unchecked(body: HeaderBody) -> SignedHeader:
    """Return a header of our own journal, which held when it was written."""
    return SignedHeader(body.header, body.signature, Header.decode(body.header))
