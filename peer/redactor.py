"""Erases redacted bodies from this peer's disk, and writes the tombstones that ask for it.

What was erased is noted in the journal when all of it is gone, from the journal, then from the
index that follows it; whatever ends the process before has it done again at the next start. Nothing
is promised about sectors that the file system gave back: encrypt the disk for that.
"""

from __future__ import annotations

import logging
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Protocol

import trio

from peer.absences import BodyPlace
from peer.copies import Found
from peer.excerpts import reader_of
from peer.exporting import redaction_told
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal, JournalFullError
from peer.keeping import erasable, keep_statements
from peer.recorder import Recorder
from peer.rows import BodilessRow, RecordRow
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import ABSENT, Bundle
from protocols.journal import Entry, ErasedBody, RecordBody
from protocols.keys import peer_id_of
from protocols.limits import (
    CUT_RETRY_S,
    ERASING_PAUSE_S_MAX,
    ERASING_SHARE,
    MAX_ERASED_AT_ONCE,
    MAX_REDACTION_REASON_CHARS,
    MAX_REDACTIONS_OF_AUTHOR,
    MAX_TOMBSTONE_RECORDS,
)
from protocols.record import kind_of
from protocols.tombstone import (
    AUTHOR,
    LASTING_KINDS,
    TOMBSTONE_KIND,
    Authority,
    Tombstone,
)

log = logging.getLogger(__name__)

Dropped = Mapping[bytes, Set[CID]]
"""Records that were dropped, by feed."""
_NONE: Final[Set[CID]] = frozenset()
MAX_LOGGED: Final = 8  # CIDs in one line


class Shelf(Protocol):
    """What redacting asks of an index."""

    def places(self, cids: Collection[bytes], /) -> list[RecordRow]:
        """Return the rows of these records, one for each place at which a body stands."""
        ...

    def bodiless(self, cids: Collection[bytes], /) -> list[BodilessRow]:
        """Return the places at which headers name these records and no body stands."""
        ...

    def unpin(self, places: Collection[int], /) -> None:
        """Do not know the journal by an entry at one of these places."""
        ...


async def _nobody() -> None:
    pass


@dataclass(slots=True)
class Redactor:
    """Erases what tombstones name while ``run`` runs; ``on_erased`` is told each time, so that
    others forget what they made of the bodies.
    """

    journal: Journal
    feeds: Feeds
    index: Index[Any]
    recorder: Recorder
    on_erased: Callable[[], Awaitable[None]] = _nobody
    _erased: trio.Event = field(default_factory=trio.Event)
    _gone: dict[CID, set[BodyPlace]] = field(default_factory=dict[CID, set[BodyPlace]])
    """Where what is erased stood, and is not noted as such yet: the disk may be full."""
    _is_waiting: bool = False
    """Whether something is not erased because what redacts it could not be kept."""
    _is_half_done: bool = field(init=False)
    """Whether a crash may have come between an index's loss of rows and that of their bytes."""

    def __post_init__(self) -> None:
        """Make one for what was replayed."""
        self._is_half_done = bool(self.feeds.bodies.pending)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Erase whatever is to be erased, until cancelled.

        The first thing goes at once. Whatever comes while it goes, and for a while after, goes
        together, because each time the whole index is written anew.
        """
        task_status.started()
        bodies = self.feeds.bodies
        earlier = bodies.redactions.named()  # what a version erased that kept no statements
        while True:
            try:
                await keep_statements(self.journal, self.feeds, earlier)
                earlier = ()
                pending = await bodies.wait_pending()
                began = trio.current_time()
                is_anew = bool(pending) and await self.erase(pending)
            except JournalFullError as error:
                log.warning("erasing waits for the disk", extra={"reason": error.message})
                await trio.sleep(CUT_RETRY_S)
            else:
                took_s = trio.current_time() - began if is_anew else 0.0
                pause_s = min((ERASING_SHARE - 1) * took_s, ERASING_PAUSE_S_MAX)
                await trio.sleep(CUT_RETRY_S if pending and self._is_waiting else pause_s)

    async def redact(
        self, cids: Sequence[CID], reason: str, authority: Authority, *, is_dropped: bool = False
    ) -> list[dict[str, Any]]:
        """Write tombstones for records and return once no body of them is on this disk.

        Those that are redacted already get no second tombstone. With ``is_dropped`` an author says
        that it wrote what is not here. Raises ``CoveyError``, and has written nothing, if one of
        them cannot be redacted, or not by this authority.
        """
        feeds = await self._feeds_of(dict.fromkeys(cids), authority, is_dropped=is_dropped)
        redactions = self.feeds.bodies.redactions
        new = [cid for cid, feed in feeds.items() if redactions.of(cid, feed) is None]
        if new:
            await self._bury(new, reason, authority)
        told: list[dict[str, Any]] = []
        for cid, feed in feeds.items():
            if (redaction := redactions.of(cid, feed)) is None:
                raise CoveyError(
                    "the tombstone is written and has no effect yet: nothing shows that this peer"
                    " may",
                    code="without-effect",
                    hint="see `covey-aggregator status` for its roles",
                )
            told.append(
                {"cid": str(cid), "is_new": cid in new, **redaction_told(redaction, [feed])}
            )
        while self.feeds.bodies.is_pending(feeds):
            await self._erased.wait()
        return told

    async def _feeds_of(
        self, cids: Iterable[CID], authority: Authority, *, is_dropped: bool
    ) -> dict[CID, bytes]:
        """Return whose records they are; raises ``CoveyError`` unless all may be redacted."""
        asked = list(cids)
        if not 0 < len(asked) <= MAX_ERASED_AT_ONCE:
            raise CoveyError(
                f"1 to {MAX_ERASED_AT_ONCE} records are redacted at once, not {len(asked)}",
                code="bad-input",
            )
        await self.feeds.cut_all()  # an unsigned record has no header that could stay
        await self.index.catch_up()
        rows = await self.index.ask(lambda store: store.places(asked))
        here = {CID(row.cid): row for row in reversed(rows)}
        rest = [cid for cid in asked if cid not in here]
        bodiless = await self.index.ask(lambda store: store.bodiless(rest))
        named = {CID(row.cid): row.feed for row in reversed(bodiless)}
        if is_dropped:
            named = dict.fromkeys(rest, self.feeds.key.public) | named
        for cid in asked:
            if cid in here:
                named[cid] = _redactable(here[cid])
            elif cid not in named:
                raise self._unknown(cid, authority)
            if authority == AUTHOR and named[cid] != self.feeds.key.public:
                raise CoveyError(
                    f"the record is of {peer_id_of(named[cid])}, and this node redacts its own",
                    code="not-author",
                    hint="its author may redact it, and an operator: `covey-aggregator redact CID`",
                )
        return {cid: named[cid] for cid in asked}

    def _unknown(self, cid: CID, authority: Authority) -> CoveyError:
        """Say that there is no such record; an author's may be one that was dropped."""
        is_here = authority == AUTHOR and self.feeds.key.public in self._dropping()
        return CoveyError(
            f"there is no record {cid} here",
            code="unknown-cid",
            hint="if this node wrote it and has dropped it since, --dropped redacts it where it is"
            " kept; if it never did, the tombstone would stay for ever and do nothing"
            if is_here
            else None,
        )

    async def _bury(self, cids: Sequence[CID], reason: str, authority: Authority) -> None:
        if not 0 < len(reason) <= MAX_REDACTION_REASON_CHARS:
            raise CoveyError(
                f"a reason has 1 to {MAX_REDACTION_REASON_CHARS} characters, not {len(reason)}",
                code="bad-input",
            )
        if not self.feeds.is_signing:
            raise CoveyError(
                "another machine runs with the same identity, so this one signs nothing",
                code="duplicate-instance",
                hint="stop one of the two, then start this one again",
            )
        room = self.feeds.bodies.redactions.room_of(self.feeds.key.public, authority)
        if room is not None and len(cids) > room:
            raise CoveyError(
                f"this node may redact {room} more records of its own, not {len(cids)}: of one"
                f" author {MAX_REDACTIONS_OF_AUTHOR} are remembered",
                code="too-many-redactions",
                hint="an operator may redact any number: `covey-aggregator redact CID`",
            )
        for part in _parts(cids, MAX_TOMBSTONE_RECORDS):
            tombstone = Tombstone(records=tuple(part), reason=reason, authority=authority)
            await self.recorder.activity(
                TOMBSTONE_KIND,
                start_us=self.recorder.effects.now_us(),
                attributes=tombstone.to_attributes(),
            )
        await self.feeds.cut_all()

    async def erase(self, cids: Collection[CID]) -> bool:
        """Erase these, of what is pending, unless what redacts them cannot be kept; say whether the
        index was written anew for it. Raises ``JournalFullError``; doing it again does the rest.
        """
        await keep_statements(self.journal, self.feeds, cids)
        kept, unkept = await erasable(self.feeds, sorted(cids))
        self._is_waiting = bool(unkept)
        if unkept:
            self.feeds.bodies.defer(unkept)
            log.warning("erasing waits for what redacts", extra={"records": len(unkept)})
        await self.index.catch_up()
        mark = self.index.mark
        parts = _parts(kept, MAX_ERASED_AT_ONCE)
        is_anew = self._is_half_done
        for part in parts:
            is_anew = await self._erase_from_journal(part, mark) or is_anew
        if is_anew:
            await self._erase_from_index(mark)
        for part in parts:
            await self.journal.append(Entry.ERASED, ErasedBody(mark, tuple(part)).encode())
            places = [(place, cid) for cid in part for place in self._gone.pop(cid, ())]
            self.feeds.note_erased(part, mark, places)
        self._erased.set()
        self._erased = trio.Event()
        return is_anew

    async def _erase_from_index(self, mark: int) -> None:
        """Erase what left the journal, and where dropped rows may have left bytes, too."""
        self._is_half_done = True
        await self.index.erase(self._gone, mark)
        self._is_half_done = False
        if self._gone:
            await self.on_erased()
            shown = [str(cid) for cid in islice(self._gone, MAX_LOGGED)]
            log.info("records redacted", extra={"records": len(self._gone), "cids": shown})

    async def _erase_from_journal(self, cids: Sequence[CID], mark: int) -> bool:
        """Erase these bodies from the journal before ``mark``; say whether any were there, or may
        have been among what was dropped.
        """
        found = await self.index.ask(lambda store: store.places(cids))
        # What no bundle holds yet has no header that could stay: it is pending again once one does
        uncut = self.feeds.uncut_offsets()
        unsigned = {row.cid for row in found if row.place in uncut}
        rows = [row for row in found if row.place < mark and row.cid not in unsigned]
        gone: dict[CID, set[BodyPlace]] = {}
        for row in filter(self._applies, rows):
            place = BodyPlace(row.feed, row.epoch, row.sequence, row.place)
            gone.setdefault(CID(row.cid), set()).add(place)
        places = {row.place for row in rows if row.cid in gone}
        dropped = self._dropped(cids)
        if gone or dropped or self.journal.is_stained:
            changes = await trio.to_thread.run_sync(self._changes, places, gone, dropped)
            for offset in uncut:
                changes.pop(offset, None)
            await self.index.ask(lambda store: store.unpin(changes))
            await self.journal.clean(changes)  # what rotted may have been one of them
        for cid, where in gone.items():
            self._gone.setdefault(cid, set()).update(where)
        return bool(gone or dropped)

    def _dropped(self, cids: Collection[CID]) -> Dropped:
        """Return, by feed, which of these records may be among those that were dropped here: no
        index knows them, and their bytes may lie in the journal for a while, or for ever where they
        are needed.
        """
        dropping = self._dropping()
        by_aggregators: set[CID] = set()
        by_authors: dict[bytes, set[CID]] = {}
        for cid in cids if dropping else ():
            is_everywhere, authors = self.feeds.bodies.redactions.redactors_of(cid)
            if is_everywhere:
                by_aggregators.add(cid)
            for author in authors:
                by_authors.setdefault(author, set()).add(cid)
        named = {
            feed: by_aggregators | by_authors[feed] if feed in by_authors else by_aggregators
            for feed in dropping
        }
        return {feed: redacted for feed, redacted in named.items() if redacted}

    def _dropping(self) -> set[bytes]:
        """Return the feeds of which something was dropped here."""
        chains = self.feeds.chains
        return {feed for (feed, _), chain in chains.items() if chain.dropped is not None}

    def _changes(
        self, places: Collection[int], gone: Collection[bytes], dropped: Dropped
    ) -> dict[int, bytes | None]:
        """Return what is to become of entries, by offset; in a worker thread."""
        changes: dict[int, bytes | None] = {}
        if dropped:
            changes.update(_dropped_entries(self.journal, self.feeds.key.public, dropped))
        entry_at = reader_of(self.journal, self.feeds.suspect)
        for place in places:
            if (entry := entry_at(place)) is not None:
                changes[place] = _without(entry, gone)
        return changes

    def _applies(self, row: RecordRow) -> bool:
        redaction = self.feeds.bodies.redactions.of(CID(row.cid), row.feed)
        return redaction is not None and row.kind not in LASTING_KINDS


def _redactable(row: RecordRow) -> bytes:
    if row.kind in LASTING_KINDS:
        raise CoveyError(
            f"a record of kind {row.kind} rules what others answer and stays", code="not-redactable"
        )
    return row.feed


def _parts(cids: Sequence[CID], size: int) -> list[Sequence[CID]]:
    return [cids[start : start + size] for start in range(0, len(cids), size)]


def _dropped_entries(
    journal: Journal, own: bytes, dropped: Dropped
) -> Iterator[tuple[int, bytes | None]]:
    ours = dropped.get(own, _NONE)
    for offset, _end, kind, body in journal.scan():
        if kind is Entry.KEPT and _is_among(ours, body):
            yield offset, None
        elif kind is Entry.RECORD and ours:
            told = RecordBody.decode(body)
            if _is_among(ours, told.record):
                yield offset, told.erased().encode()
        elif kind is Entry.BUNDLE:
            bundle = Bundle.decode_verified(body)
            theirs = dropped.get(bundle.header.feed, _NONE)
            if not theirs.isdisjoint(map(CID.of_digest, bundle.header.digests)):
                kept = (ABSENT if _is_among(theirs, each) else each for each in bundle.records)
                yield offset, bundle.with_records(kept).encode()


def _is_among(redacted: Set[CID], record: bytes) -> bool:
    return bool(record) and CID.of(record) in redacted and kind_of(record) not in LASTING_KINDS


def _without(entry: Found, gone: Collection[bytes]) -> bytes:
    """Return the body of an entry without those records."""
    kind, body = entry
    if kind is Entry.RECORD:
        return RecordBody.decode(body).erased().encode()
    bundle = Bundle.decode_verified(body)
    named = zip(bundle.header.digests, bundle.records, strict=True)
    kept = (ABSENT if CID.of_digest(digest) in gone else record for digest, record in named)
    return bundle.with_records(kept).encode()
