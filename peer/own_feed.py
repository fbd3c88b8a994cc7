"""Our own feed: numbers records, cuts and signs bundles, and begins a new epoch when it must.

The order of durability is what keeps the feed from ever forking: a record is on the disk before it
may be signed, the move to an epoch before anything is signed in it, and a signature before anyone
may see it. What can't be continued (the journal was lost, lost its end, or is older than what
others saw of us) goes on in a higher epoch. An older journal looks like a whole one, so after a
restart ``run`` signs nothing until somebody could say what they saw of us.

Numbers are given out when a record is queued and taken back when the journal refuses it. That works
because the journal refuses everything queued behind as well, in the same step.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import trio

from peer.effects import Effects
from peer.journal import Journal, JournalError, JournalFullError, Pending
from peer.uncut import Ready, Uncut, gap_behind, next_cut, take
from protocols.cid import CID
from protocols.errors import LocalProtocolError
from protocols.feed import Bundle, Header, Place, sign_bundle
from protocols.journal import Entry, EpochBody, HeaderBody, RecordBody
from protocols.keys import SigningKey
from protocols.limits import (
    CUT_AFTER_S,
    CUT_REPORT_AFTER_S,
    CUT_RETRY_S,
    CUT_START_S,
    MAX_EPOCH,
    MAX_EPOCH_LEAP_S,
)
from protocols.record import Record, is_block

log = logging.getLogger(__name__)

REPORT_KIND = "error.report"

OnRefused = Callable[[JournalError], None]
"""Told that the disk did not take a record; must not block or raise."""


@dataclass(frozen=True, slots=True)
class OwnBundle:
    """A bundle that we cut, and where the journal has its parts."""

    header: Header
    cid: CID
    header_offset: int
    record_offsets: array[int]
    records: tuple[bytes, ...]


class OwnFeed:
    """One peer's own log. ``replay_…`` and ``resume`` rebuild it before anything else is called.

    ``on_cut`` is told of every bundle as soon as it may be shown.
    """

    def __init__(
        self,
        journal: Journal,
        key: SigningKey,
        effects: Effects,
        on_cut: Callable[[OwnBundle], None],
    ) -> None:
        self._journal = journal
        self._key = key
        self._effects = effects
        self._on_cut = on_cut
        self.epoch = min(max(1, effects.now_us() // 1_000_000), MAX_EPOCH // 2)
        """Seconds since 1970 when the feed began here: after the loss of a journal it comes back
        above its old self without asking anyone. ``rise_above`` makes up for a clock that lies."""
        self.next_sequence = 0
        self._signed = (0, 0)
        self._previous: CID | None = None
        self._uncut: list[Uncut] = []
        self._blocks: set[CID] = set()
        self.settled_at = -1
        """Offset of our last signature or move: what was lost before it can't be signed again."""
        self._owed: dict[EpochBody, Pending | None] = {}
        """Moves that are not on the disk yet, in order; without a ``Pending``, it refused them."""
        self._claimed = (0, 0)
        self._highest_claim = self.epoch + MAX_EPOCH_LEAP_S
        self.is_stopped = False
        """Whether another instance of our key is alive: records are kept, and signed by a later
        run."""
        self._is_live = False  # during the replay, later entries may say that we rose already
        self._ready = Ready()
        self._cutting = trio.Lock()
        self._cutting_allowed = trio.Event()
        self._stirred = trio.Event()

    @property
    def place(self) -> tuple[int, int]:
        """The epoch and how far in it we have signed: the furthest that others can have seen."""
        return self._signed if self._signed[0] == self.epoch else (self.epoch, 0)

    @property
    def uncut_offsets(self) -> Iterator[int]:
        """Where the journal has the records that no bundle holds yet."""
        return (uncut.offset for uncut in self._uncut if uncut.offset is not None)

    # Rebuilding

    def replay_record(self, offset: int, body: RecordBody) -> None:
        """Take in a journalled record."""
        self.epoch, self.next_sequence = body.epoch, body.sequence + 1
        uncut = Uncut(body.epoch, body.sequence, body.record, -math.inf, offset, body.digest)
        self._uncut.append(uncut)
        if body.digest:
            self._blocks.add(CID.of_digest(body.digest))  # were it a block: not to be written again
        elif is_block(body.record):
            self._blocks.add(CID.of(body.record))

    def replay_header(self, offset: int, body: HeaderBody) -> OwnBundle | None:
        """Take in a journalled cut; none when one of its records is gone."""
        header = Header.decode(body.header)
        self.settled_at = offset
        taken, self._uncut = take(self._uncut, header.digests)
        if (header.epoch, header.next_sequence) > (self.epoch, self.next_sequence):
            self.epoch, self.next_sequence = header.epoch, header.next_sequence
        self._signed = (header.epoch, header.next_sequence)
        self._previous = CID.of(body.header)
        if len(taken) != len(header.digests):
            return None
        return _own_bundle(header, self._previous, offset, taken)

    def replay_epoch(self, offset: int, body: EpochBody) -> None:
        """Take in a journalled move to another epoch."""
        self.settled_at = offset
        self._move(body)

    def replay_dropped(self, epoch: int, next_sequence: int) -> None:
        """Take in that everything below that place was signed, although its header may be gone."""
        self._uncut = [
            uncut
            for uncut in self._uncut
            if uncut.epoch != epoch or uncut.sequence >= next_sequence
        ]

    def resume(self) -> None:
        """End the replay; where the journal lost something, go on behind it in a new epoch."""
        if not self._uncut and self.settled_at < 0:
            self.allow_cutting()  # nothing was ever here that others could have seen
        # Its header rotted away, and it cannot be signed again: a gap like any other
        self._uncut = [uncut for uncut in self._uncut if not uncut.digest]
        if self._may_lack_a_signature():
            log.warning("feed continues in a new epoch", extra={"ours": self.place})
            self._leave_epoch()
        while (gap := gap_behind(self._signed, self._uncut)) is not None:
            self._start_epoch(gap.epoch, gap.sequence)
        now_s = self._effects.now_us() // 1_000_000
        self._highest_claim = min(max(now_s, self.epoch) + MAX_EPOCH_LEAP_S, MAX_EPOCH // 2)
        self._is_live = True
        self._rise()
        self._count_ready()

    def _may_lack_a_signature(self) -> bool:
        """Say whether a signature or a move may have been in what the journal lost.

        A record that does not follow the one before it is a sign as well: the move between them
        may be gone, and with it the knowledge that others saw the old epoch further than we did.
        """
        journal = self._journal
        is_damaged = any(damage.offset > self.settled_at for damage in journal.damage)
        has_gap = gap_behind(self._signed, self._uncut) is not None
        return journal.has_lost_tail or is_damaged or has_gap

    # Writing

    def holds_block(self, cid: CID) -> bool:
        """Say whether a block of that name is in this feed."""
        return cid in self._blocks

    async def append(self, record: Record) -> CID:
        """Journal a record of ours; return its CID once it is on the disk."""
        await self._journal.wait_room()
        cid, pending = self._append(record)
        await pending.wait()
        return cid

    async def append_soon(self, record: Record, refused: OnRefused) -> CID:
        """Queue a record of ours and return its CID; a crash may lose it, and ``refused`` is told
        if the disk did not take it. What is appended later is behind it on the disk.
        """
        await self._journal.wait_room()
        return self._append(record, refused)[0]

    def _append(self, record: Record, refused: OnRefused | None = None) -> tuple[CID, Pending]:
        if record.author != self._key.public:
            raise LocalProtocolError("a record of another author does not belong in our feed")
        encoded = record.encode()
        cid = CID.of(encoded)
        patience = CUT_REPORT_AFTER_S if record.kind == REPORT_KIND else CUT_AFTER_S
        due_at = trio.current_time() + patience
        uncut = Uncut(self.epoch, self.next_sequence, encoded, due_at)

        def settle(outcome: int | JournalError) -> None:
            if isinstance(outcome, JournalError):
                self._take_back(uncut, cid)
                if refused is not None:
                    refused(outcome)
            else:
                uncut.offset = outcome
                self._ready.add(uncut)
                self._stirred.set()

        body = RecordBody(uncut.epoch, uncut.sequence, encoded).encode()
        can_wait = refused is not None
        pending = self._journal.append_soon(Entry.RECORD, body, settle, can_wait=can_wait)
        self._uncut.append(uncut)
        self.next_sequence += 1
        if is_block(encoded):
            self._blocks.add(cid)
        return cid, pending

    def _take_back(self, uncut: Uncut, cid: CID) -> None:
        self._uncut.remove(uncut)
        self._blocks.discard(cid)
        if uncut.epoch == self.epoch:
            self.next_sequence = min(self.next_sequence, uncut.sequence)

    # Cutting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cut bundles as they fall due, until cancelled; after a restart not before somebody could
        say how far they saw us.
        """
        task_status.started()
        with trio.move_on_after(CUT_START_S):
            await self._cutting_allowed.wait()
        while True:
            await self._wait_due()
            if self.is_stopped:
                await trio.sleep_forever()
            try:
                await self.cut()
            except JournalFullError as error:
                log.warning("bundle not cut", extra={"code": error.code})
                await trio.sleep(CUT_RETRY_S)

    def allow_cutting(self) -> None:
        """Let ``run`` cut from now on: a neighbour has met us and said how far it saw us."""
        self._cutting_allowed.set()

    async def cut(self) -> Bundle | None:
        """Sign the next bundle and journal it; none when no durable record is waiting.

        On return it is on the disk and may be shown. Raises ``JournalFullError``; nothing is cut
        then.
        """
        async with self._cutting:
            if self.is_stopped:
                return None
            self._rise()
            await self._settle_moves()
            taken = next_cut(self._uncut)
            if not taken:
                return None
            bundle = self._sign(taken)

            def settle(outcome: int | JournalError) -> None:
                if not isinstance(outcome, JournalError):
                    self._advance(bundle, outcome, taken)

            body = HeaderBody(bundle.header_bytes, bundle.signature).encode()
            pending = self._journal.append_soon(Entry.HEADER, body, settle)
            # What became of a signature must be known before its range could be signed again.
            with trio.CancelScope(shield=True):
                await pending.wait()
            return bundle

    def _advance(self, bundle: Bundle, offset: int, taken: list[Uncut]) -> None:
        del self._uncut[: len(taken)]
        self.settled_at = offset
        self._signed = (bundle.header.epoch, bundle.header.next_sequence)
        self._previous = bundle.cid
        self._count_ready()
        self._on_cut(_own_bundle(bundle.header, bundle.cid, offset, taken))

    def _sign(self, taken: list[Uncut]) -> Bundle:
        first = taken[0]
        previous = self._previous if first.sequence else None
        place = Place(first.epoch, first.sequence, previous)
        records = [uncut.encoded for uncut in taken]
        return sign_bundle(self._key, place, records, self._effects.now_us())

    async def _wait_due(self) -> None:
        while (due_at := self._ready.due_at) > trio.current_time():
            with trio.move_on_at(due_at):
                await self._stirred.wait()
            self._stirred = trio.Event()

    def _count_ready(self) -> None:
        self._ready = Ready()
        for uncut in self._uncut:
            if uncut.offset is not None:
                self._ready.add(uncut)

    # Epochs

    @property
    def claimed(self) -> tuple[int, int]:
        """The furthest place at which others saw our feed, of those that can be."""
        return self._claimed

    def rise_above(self, epoch: int, next_sequence: int) -> None:
        """Others saw our feed at that place: if we never signed that far, sign only in a new
        epoch.
        """
        if not 0 <= epoch <= self._highest_claim:
            # Whoever lies about what they saw must not use up the epochs that are left.
            log.warning("impossible epoch ignored", extra={"epoch": epoch})
            return
        self._claimed = max(self._claimed, (epoch, next_sequence))
        if self._is_live and not self._cutting.locked():
            self._rise()

    def _rise(self) -> None:
        if self._claimed <= self.place:
            return
        log.warning(
            "feed continues in a new epoch", extra={"seen": self._claimed, "ours": self.place}
        )
        self._leave_epoch()

    def _leave_epoch(self) -> None:
        """Move everything uncut to new epochs, and go on there."""
        moving = {uncut.epoch: uncut.sequence for uncut in reversed(self._uncut)}
        moving.setdefault(self.epoch, self.next_sequence)
        for old_epoch in sorted(moving):
            self._start_epoch(old_epoch, moving[old_epoch])

    def _start_epoch(self, old_epoch: int, first_sequence: int) -> None:
        """Move the uncut records of ``old_epoch`` from ``first_sequence`` on to a new epoch.

        Nobody waits for the journal here, but nothing is signed before it has taken the move.
        """
        epoch = max(self.epoch, self._claimed[0]) + 1
        if epoch >= MAX_EPOCH:
            raise LocalProtocolError(
                f"the feed is in epoch {self.epoch}, and there is none above it",
                hint="move this home away and join again: others hold what was shared",
            )
        body = EpochBody(epoch, old_epoch, first_sequence)
        is_blocked = None in self._owed.values()  # moves are replayed in their order
        self._owed[body] = None
        if not is_blocked:
            with suppress(JournalFullError):
                self._journal_move(body)
        self._move(body)

    def _journal_move(self, body: EpochBody) -> Pending:
        def settle(outcome: int | JournalError) -> None:
            if isinstance(outcome, JournalError):
                self._owed[body] = None
            else:
                del self._owed[body]
                self.settled_at = outcome
                if not self._owed:
                    self._journal.settle_tail()

        pending = self._journal.append_soon(Entry.EPOCH, body.encode(), settle)
        self._owed[body] = pending
        return pending

    async def _settle_moves(self) -> None:
        """Return when every move is on the disk; raises ``JournalFullError`` if it refuses one."""
        while self._owed:
            body, pending = next(iter(self._owed.items()))
            await (pending or self._journal_move(body)).wait()

    def _move(self, body: EpochBody) -> None:
        # A move that the disk took late stands behind records that were in its epoch already.
        for uncut in self._uncut:
            if uncut.epoch == body.old_epoch and uncut.sequence >= body.first_sequence:
                uncut.epoch = body.epoch
                uncut.sequence -= body.first_sequence
        self.epoch = max(self.epoch, body.epoch)
        here = [uncut.sequence for uncut in self._uncut if uncut.epoch == self.epoch]
        self.next_sequence = max(here, default=-1) + 1


def _own_bundle(header: Header, cid: CID, header_offset: int, taken: list[Uncut]) -> OwnBundle:
    offsets = array("Q", [uncut.offset or 0 for uncut in taken])
    records = tuple(uncut.encoded for uncut in taken)
    return OwnBundle(header, cid, header_offset, offsets, records)
