"""Has what redacts twice in the journal, before anything is erased by it: its bundle may be damaged
later and its author gone, and a body that is absent would be fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

import trio

from peer.feeds import Feeds
from peer.journal import Journal, Pending
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.journal import Entry
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
        found = _found_with(statement, feeds, wanted)
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


def _found_with(statement: CID, feeds: Feeds, wanted: Set[CID]) -> dict[CID, bytes]:
    """Return what is wanted of the bundle in which a statement is."""
    bundle = feeds.bundle_of(statement)
    records = () if bundle is None else Bundle.decode_verified(bundle).records
    statements = (record for record in records if record and kind_of(record) in STATEMENT_KINDS)
    return {cid: record for record in statements if (cid := CID.of(record)) in wanted}


async def _settle(pending: list[tuple[Pending, bytes]], feeds: Feeds) -> None:
    """Take in what was appended once it is on the disk; it is pending no more."""
    for entry, record in pending:
        feeds.bodies.keep(record, await entry.wait())
    pending.clear()
