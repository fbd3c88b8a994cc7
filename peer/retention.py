"""Lets go of records that an aggregator has promised to keep, once they are old or too many.

What no aggregator acknowledged is never dropped, however old it is. Dropping is one durable word in
the journal; the bytes go later, a segment at a time, when next to nothing in it is held any more.
What is small and still needed (salts, acceptances, what redacts, the latest acknowledgements) is
written anew at the journal's end before that, so that whole segments become free.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Final

import trio

from peer.acknowledged import FeedEpoch
from peer.feeds import Feeds
from peer.journal import Journal, JournalDamagedError, JournalFullError, Pending
from protocols.ack import SignedAck
from protocols.chain import Link
from protocols.cid import CID
from protocols.feed import Bundle, Header
from protocols.journal import Damage, DroppedBody, Entry, HeaderBody, RecordBody
from protocols.limits import RETENTION_CHECK_S, SWEEP_BUNDLES
from protocols.record import kind_of
from protocols.tombstone import STATEMENT_KINDS, mentions_redaction

log = logging.getLogger(__name__)

Needed = Callable[[Entry, bytes], bytes]
"""Returns what of the body of a ``SALT`` or ``KEPT`` entry is still needed by somebody; empty if
nothing is."""

Forewarn = Callable[[Collection[int]], Awaitable[None]]
"""Told at which offsets of the journal entries are about to be erased."""

_Weight = tuple[int, int]
"""How many bytes of the journal a bundle takes, and when its author signed it, in microseconds."""

_DAY_US: Final = 86_400_000_000
_OF_FEEDS: Final = (Entry.RECORD, Entry.HEADER, Entry.BUNDLE)
_MOVED: Final = {
    Entry.RECORD: Entry.KEPT,
    Entry.KEPT: Entry.KEPT,
    Entry.SALT: Entry.SALT,
    Entry.ACK: Entry.ACK,
    Entry.DROPPED: Entry.DROPPED,
}
"""What an entry becomes at the journal's end. Kinds that are not here stay where they are: moves of
epochs, whose order counts, and what a newer version wrote."""
_SWEPT: Final = frozenset((*_MOVED, *_OF_FEEDS))


@dataclass(frozen=True, slots=True)
class Keep:
    """How long acknowledged records stay, and how many bytes of them at most."""

    days: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    link: Link
    size: int
    time_us: int


@dataclass(slots=True)
class _Swept:
    """What becomes of a segment: which entries go, and what is written anew of them."""

    start: int
    end: int
    held: set[int]
    gone: dict[int, bytes | None] = field(default_factory=dict[int, bytes | None])
    anew: list[tuple[Entry, bytes]] = field(default_factory=list[tuple[Entry, bytes]])
    statements: set[CID] = field(default_factory=set[CID])
    """Those among what is written anew, or is kept elsewhere."""
    healed: list[Damage] = field(default_factory=list[Damage])


class Retention:
    """Enforces ``keep`` on one peer's journal; ``needed`` says what of others' entries stays, and
    ``forewarn`` is told which entries are about to be erased.
    """

    def __init__(
        self, journal: Journal, feeds: Feeds, keep: Keep, needed: Needed, forewarn: Forewarn
    ) -> None:
        self._journal = journal
        self._feeds = feeds
        self._keep = keep
        self._needed = needed
        self._forewarn = forewarn
        self._weights: dict[int, _Weight] = {}
        self._left: dict[int, int] = {}
        """How much each segment still held when it was swept, by its start."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drop what may go, now and every ``RETENTION_CHECK_S``, until cancelled."""
        task_status.started()
        while True:
            try:
                await self.enforce()
            except JournalFullError as error:
                log.warning("nothing dropped", extra={"code": error.code})
            await trio.sleep(RETENTION_CHECK_S)

    async def enforce(self) -> None:
        """Drop what may go now, and erase what nobody holds any more."""
        for key, link in (await self._due()).items():
            await self._feeds.drop(key, link)
        await self._sweep()

    # Dropping

    async def _due(self) -> dict[FeedEpoch, Link]:
        """Return up to which bundle each feed's epoch is dropped now: from its start to the first
        that is not due, and past the limit of bytes what came first goes first.
        """
        feeds = await self._candidates()
        excess = sum(each.size for queue in feeds.values() for each in queue) - self._keep.max_bytes
        horizon_us = self._feeds.effects.now_us() - int(self._keep.days * _DAY_US)
        due: dict[FeedEpoch, Link] = {}
        oldest = [(queue[0].link.offset, key) for key, queue in feeds.items()]
        heapify(oldest)
        while oldest:
            _, key = heappop(oldest)
            candidate = feeds[key].popleft()
            if excess <= 0 and candidate.time_us > horizon_us:
                continue
            due[key] = candidate.link
            excess -= candidate.size
            if feeds[key]:
                heappush(oldest, (feeds[key][0].link.offset, key))
        return due

    async def _candidates(self) -> dict[FeedEpoch, deque[_Candidate]]:
        """Return what may be dropped, by feed and epoch, each from its start on."""
        candidates: defaultdict[FeedEpoch, deque[_Candidate]] = defaultdict(deque)
        weights: dict[int, _Weight] = {}
        for key in list(self._feeds.chains):
            for link in self._feeds.droppable(key):
                if (weight := self._weights.get(link.offset)) is None:
                    weight = self._weigh(link)
                    await trio.lowlevel.checkpoint()  # 0.1 ms each; at a start there may be many
                if weight is not None:
                    weights[link.offset] = weight
                    candidates[key].append(_Candidate(link, *weight))
        self._weights = weights
        return candidates

    def _weigh(self, link: Link) -> _Weight | None:
        """Return how many bytes of the journal a bundle takes, and when its author signed it; none
        when the disk has damaged it, and then it is held no longer.
        """
        first = self._feeds.reader.first_entry(link.offset)
        try:
            entry = self._journal.entry(link.offset)
        except JournalDamagedError:
            self._feeds.quarantine([Damage(link.offset, link.offset + 1)])
            return None
        return entry.end_offset - first, _header(entry.kind, entry.body).time_us

    # Erasing

    async def _sweep(self) -> None:
        """Erase what was dropped from segments in which next to nothing else is left."""
        if not self._feeds.dropped_records:
            return
        held = await self._held()
        for start, end in self._journal.sealed():
            left = sum(first < end and last >= start for first, last in held)
            if left <= SWEEP_BUNDLES and left < self._left.get(start, SWEEP_BUNDLES + 1):
                await self._sweep_segment(start, end)
                self._left[start] = left

    async def _sweep_segment(self, start: int, end: int) -> None:
        swept = _Swept(start, end, self._entries_held(start, end))
        await self._journal.aside(partial(self._sort_out, swept))
        pending: list[tuple[Pending, Entry, bytes]] = []
        for kind, body in swept.anew:
            await self._journal.wait_room()
            if not self._is_redacted(kind, body):
                pending.append((self._journal.append_soon(kind, body), kind, body))
        for entry, kind, body in pending:
            offset = await entry.wait()
            if self._is_redacted(kind, body):  # whoever erased it may not have seen this one
                swept.gone[offset] = None
            elif kind is Entry.KEPT and _is_statement(body):
                self._feeds.bodies.keep(body, offset)
        if swept.gone or swept.healed:
            await self._forewarn(swept.gone)
            await self._journal.rewrite(swept.gone, swept.healed)
            self._feeds.bodies.lose_copies(swept.gone.__contains__)
            log.info("records erased", extra={"entries": len(swept.gone), "segment": start})

    async def _held(self) -> list[tuple[int, int]]:
        """Return from where to where in the journal each bundle lies that is held, and each record
        that is not cut yet.
        """
        held = [(offset, offset) for offset in self._feeds.uncut_offsets()]
        for chain in list(self._feeds.chains.values()):
            for number, link in enumerate(list(chain)):
                held.append((self._feeds.reader.first_entry(link.offset), link.offset))
                if not number % 1_000:
                    await trio.lowlevel.checkpoint()
        return held

    def _entries_held(self, start: int, end: int) -> set[int]:
        """Return which entries of bundles held, or of uncut records, lie between two offsets."""
        reader, held = self._feeds.reader, self._feeds.uncut_offsets()
        for link in (link for chain in self._feeds.chains.values() for link in chain):
            if reader.first_entry(link.offset) < end and link.offset >= start:
                held.update(reader.entries_of(link.offset))
        return {offset for offset in held if start <= offset < end}

    def _sort_out(self, swept: _Swept) -> None:
        """Read a segment, which takes a while."""
        for found in self._journal.inspect(swept.end, swept.start):
            if isinstance(found, Damage):
                # Of what is whole beside it next to nothing is held; but who forgot that our latest
                # signature may have been in it would sign the same range once more
                if found.end_offset <= self._feeds.settled_at:
                    swept.healed.append(found)
            elif found.offset not in swept.held and found.kind in _SWEPT:
                kind = Entry(found.kind)
                if kind in _OF_FEEDS and not self._is_dropped(kind, found.body):
                    continue
                needed = self._still_needed(kind, found.body)
                swept.anew += (each for each in needed if not self._is_kept(swept, *each))
                swept.gone[found.offset] = None

    def _is_dropped(self, kind: Entry, body: bytes) -> bool:
        if kind is Entry.RECORD:
            told = RecordBody.decode(body)
            return self._feeds.is_dropped(self._feeds.key.public, told.epoch, told.sequence)
        header = _header(kind, body)
        return self._feeds.is_dropped(header.feed, header.epoch, header.first_sequence)

    def _still_needed(self, kind: Entry, body: bytes) -> list[tuple[Entry, bytes]]:
        """Return what is to be written anew of an entry, if anything."""
        if kind in (Entry.ACK, Entry.DROPPED):
            return [(kind, body)] if self._counts(kind, body) else []
        if kind is Entry.HEADER:
            return []
        if kind is Entry.BUNDLE:
            return [(Entry.KEPT, record) for record in _statements(body)]
        content = RecordBody.decode(body).record if kind is Entry.RECORD else body
        if not content:
            return []  # it was redacted
        moved = _MOVED[kind]
        needed = content if _is_statement(content) else self._needed(moved, content)
        return [(moved, needed)] if needed else []

    def _is_kept(self, swept: _Swept, kind: Entry, body: bytes) -> bool:
        """Say whether a statement is written anew already, or has a whole copy elsewhere."""
        if kind is not Entry.KEPT or not _is_statement(body):
            return False
        cid = CID.of(body)
        if cid in swept.statements:
            return True
        swept.statements.add(cid)
        copies = self._feeds.bodies.copies_of(cid)
        return any(self._is_whole(at) for at in copies if not swept.start <= at < swept.end)

    def _is_whole(self, offset: int) -> bool:
        try:
            return bool(self._journal.read(offset))
        except JournalDamagedError:
            return False

    def _is_redacted(self, kind: Entry, body: bytes) -> bool:
        """Say whether a record that was needed was redacted since."""
        redactions = self._feeds.bodies.redactions
        return kind is Entry.KEPT and redactions.applies(body, CID.of(body), self._feeds.key.public)

    def _counts(self, kind: Entry, body: bytes) -> bool:
        """Say whether an acknowledgement, or the word that something was dropped, still counts."""
        if kind is Entry.ACK:
            return self._feeds.acknowledged.rests_on(SignedAck.decode(body))
        told = DroppedBody.decode(body)
        chain = self._feeds.chains[told.feed, told.epoch]
        return chain.dropped_below == told.next_sequence


def _header(kind: int, body: bytes) -> Header:
    if kind == Entry.HEADER:
        return Header.decode(HeaderBody.decode(body).header)
    return Bundle.decode_verified(body).header


def _statements(bundle: bytes) -> list[bytes]:
    """Return the records of a stored bundle by which redactions stand."""
    if not mentions_redaction(bundle):
        return []
    return [record for record in Bundle.decode_verified(bundle).records if _is_statement(record)]


def _is_statement(content: bytes) -> bool:
    return mentions_redaction(content) and kind_of(content) in STATEMENT_KINDS
