"""Has what redacts twice in the journal, before anything is erased by it: its bundle may be damaged
later and its author gone, and a body that is absent would be fetched again. What redacts may not be
in a bundle: our own is signed some time after it was written, and others' was let go of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Final

import trio

from peer.feeds import Feeds
from peer.journal import Journal, JournalDamagedError, JournalErasedError, Pending
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.journal import Entry, RecordBody
from protocols.record import kind_of
from protocols.tombstone import STATEMENT_KINDS

RECORDS_AT_ONCE: Final = 1_000  # judged without a pause, which takes 4 ms
BYTES_AT_ONCE: Final = 1 << 18  # in memory until they are on the disk: 4 ms for 1,700 short ones


async def keep_statements(journal: Journal, feeds: Feeds, cids: Iterable[CID]) -> None:
    """Return when the journal has apart from their bundles whatever redacts these records, and
    what was damaged there since it was kept so.

    Each bundle is read once, and others have their turn between two. Raises ``JournalFullError``;
    doing it again does the rest.
    """
    wanted = set(feeds.bodies.to_keep())
    redacted = tuple(cids)
    for start in range(0, len(redacted), RECORDS_AT_ONCE):
        wanted |= feeds.bodies.unkept(redacted[start : start + RECORDS_AT_ONCE])
        await trio.lowlevel.checkpoint()
    await _keep(wanted, journal, feeds)


async def _keep(wanted: set[CID], journal: Journal, feeds: Feeds) -> None:
    pending: list[tuple[Pending, bytes]] = []
    size = 0
    for statement in sorted(wanted):
        if statement not in wanted:
            continue  # it was in the bundle of another
        found = _found_with(statement, journal, feeds, wanted)
        wanted.difference_update(found)
        for record in found.values():
            await journal.wait_room()
            pending.append((journal.append_soon(Entry.KEPT, record), record))
            size += len(record)
        if size >= BYTES_AT_ONCE:
            await _settle(pending, feeds)
            size = 0
        await trio.lowlevel.checkpoint()
    await _settle(pending, feeds)


async def erasable(feeds: Feeds, cids: Iterable[CID]) -> tuple[list[CID], list[CID]]:
    """Return which of these records may be erased, what redacts them being kept, and which not."""
    found: tuple[list[CID], list[CID]] = [], []
    for number, cid in enumerate(cids):
        found[not feeds.bodies.is_kept(cid)].append(cid)
        if not number % RECORDS_AT_ONCE:
            await trio.lowlevel.checkpoint()
    return found


def _found_with(
    statement: CID, journal: Journal, feeds: Feeds, wanted: Set[CID]
) -> dict[CID, bytes]:
    """Return what is wanted of the bundle, or else of the entry, in which a statement is."""
    bundle = feeds.bundle_of(statement)
    if bundle is not None:
        records = Bundle.decode_verified(bundle).records
    else:
        records = _entry_with(statement, journal, feeds)
    statements = (record for record in records if record and kind_of(record) in STATEMENT_KINDS)
    return {cid: record for record in statements if (cid := CID.of(record)) in wanted}


def _entry_with(statement: CID, journal: Journal, feeds: Feeds) -> Sequence[bytes]:
    offset = feeds.bodies.entry_of(statement)
    if offset is None:
        return ()
    try:
        entry = journal.entry(offset)
    except (JournalDamagedError, JournalErasedError):
        return ()
    if entry.kind == Entry.RECORD:
        return (RecordBody.decode(entry.body).record,)
    return Bundle.decode_verified(entry.body).records if entry.kind == Entry.BUNDLE else ()


async def _settle(pending: list[tuple[Pending, bytes]], feeds: Feeds) -> None:
    """Take in what was appended once it is on the disk; it is pending no more."""
    for entry, record in pending:
        feeds.bodies.keep(record, await entry.wait())
    pending.clear()
