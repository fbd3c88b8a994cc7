"""Erases redacted bodies from this peer's disk, and writes the tombstones that ask for it.

What was erased is noted in the journal when all of it is gone, from the journal, then from the
index that follows it; whatever ends the process before has it done again at the next start. Nothing
is promised about sectors that the file system gave back: encrypt the disk for that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from peer.excerpts import Found, reader_of
from peer.exporting import redaction_told
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal, JournalFullError
from peer.recorder import Recorder
from peer.rows import BodilessRow, RecordRow
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import ABSENT, Bundle
from protocols.journal import Entry, ErasedBody, RecordBody
from protocols.keys import peer_id_of
from protocols.limits import CUT_RETRY_S, MAX_REDACTION_REASON_CHARS
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

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Erase whatever is to be erased, until cancelled."""
        task_status.started()
        while True:
            pending = await self.feeds.bodies.wait_pending()
            try:
                await self._erase(pending)
            except JournalFullError as error:
                log.warning("erasing waits for the disk", extra={"reason": error.message})
                await trio.sleep(CUT_RETRY_S)

    async def redact(self, cid: CID, reason: str, authority: Authority) -> dict[str, Any]:
        """Write a tombstone for a record and return once no body of it is on this disk.

        One that is redacted already gets no second tombstone. Raises ``CoveyError`` for what cannot
        be redacted, or not by this authority.
        """
        feed = await self._feed_of(cid, authority)
        redaction = self.feeds.bodies.redactions.of(cid, feed)
        is_new = redaction is None
        if redaction is None:
            await self._bury(cid, reason, authority)
            redaction = self.feeds.bodies.redactions.of(cid, feed)
        if redaction is None:
            raise CoveyError(
                "the tombstone is written and has no effect yet: nothing shows that this peer may",
                code="without-effect",
                hint="see `covey-aggregator status` for its roles",
            )
        while cid in self.feeds.bodies.pending:
            await self._erased.wait()
        return {"cid": str(cid), "is_new": is_new, **redaction_told(redaction, feed)}

    async def _feed_of(self, cid: CID, authority: Authority) -> bytes:
        """Return whose record it is; raises ``CoveyError`` unless it may be redacted.

        An author's that is not here may be one that was dropped, which others keep.
        """
        await self.feeds.cut_all()  # an unsigned record has no header that could stay
        await self.index.catch_up()
        bodies = await self.index.ask(lambda store: store.places([cid]))
        rows = bodies or await self.index.ask(lambda store: store.bodiless([cid]))
        if not rows and authority == AUTHOR and self.feeds.key.public in self._dropping():
            return self.feeds.key.public
        if not rows:
            raise CoveyError(f"there is no record {cid} here", code="unknown-cid")
        feed = rows[0].feed
        if bodies and bodies[0].kind in LASTING_KINDS:
            raise CoveyError(
                f"a record of kind {bodies[0].kind} rules what others answer and stays",
                code="not-redactable",
            )
        if authority == AUTHOR and feed != self.feeds.key.public:
            raise CoveyError(
                f"the record is of {peer_id_of(feed)}, and this node redacts its own",
                code="not-author",
                hint="its author may redact it, and an operator: `covey-aggregator redact CID`",
            )
        return feed

    async def _bury(self, cid: CID, reason: str, authority: Authority) -> None:
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
        tombstone = Tombstone(records=(cid,), reason=reason, authority=authority)
        await self.recorder.activity(
            TOMBSTONE_KIND,
            start_us=self.recorder.effects.now_us(),
            attributes=tombstone.to_attributes(),
        )
        await self.feeds.cut_all()

    async def _erase(self, cids: Collection[CID]) -> None:
        await self.index.catch_up()
        mark = self.index.mark
        found = await self.index.ask(lambda store: store.places(cids))
        rows = [row for row in found if row.place < mark]
        gone = {row.cid for row in rows if self._applies(row)}
        places = {row.place for row in rows if row.cid in gone}
        dropped = self._dropped(cids)
        if gone or dropped or self.journal.is_stained:
            changes = await trio.to_thread.run_sync(self._changes, places, gone, dropped)
            await self.index.ask(lambda store: store.unpin(changes))
            await self.journal.clean(changes)  # what rotted may have been one of them
        if gone or dropped:
            await self.index.erase(gone, mark)  # where dropped rows may have left bytes, too
        await self.journal.append(Entry.ERASED, ErasedBody(mark, tuple(cids)).encode())
        places_gone = [(row.feed, CID(row.cid)) for row in rows if row.cid in gone]
        self.feeds.bodies.erased(cids, mark, places_gone)
        if gone:
            await self.on_erased()
            log.info("records redacted", extra={"cids": [str(CID(cid)) for cid in sorted(gone)]})
        self._erased.set()
        self._erased = trio.Event()

    def _dropped(self, cids: Collection[CID]) -> Dropped:
        """Return, by feed, which of these records may be among those that were dropped here: no
        index knows them, and their bytes may lie in the journal for a while, or for ever where they
        are needed.
        """
        redactions = self.feeds.bodies.redactions
        named = {
            feed: {cid for cid in cids if redactions.of(cid, feed) is not None}
            for feed in self._dropping()
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
