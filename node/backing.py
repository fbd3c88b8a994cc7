"""What backs the index's answers: the journal's bytes, and what was redacted of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from peer.copies import EntryAt, is_whole
from peer.excerpts import reader_of
from peer.feeds import Feeds
from peer.held_feeds import HeldFeeds
from peer.journal import Journal
from peer.rows import RecordRow
from protocols.cid import CID
from protocols.keys import PeerId, peer_id_of
from protocols.tombstone import Redactions


@dataclass(frozen=True, slots=True)
class Backing:
    """Where an answer goes back to. ``damage_of`` reads the disk."""

    redactions: Redactions
    entry_at: EntryAt
    holders: Callable[[RecordRow], list[PeerId]]
    """Who else may have a record that is or was here."""
    is_damaged: bool = False
    """Whether bytes of the journal are known to be damaged."""

    @classmethod
    def of(cls, journal: Journal, feeds: Feeds) -> Backing:
        """Return what backs a node's index; for its thread."""
        entry_at = reader_of(journal, feeds.suspect)
        is_damaged = bool(journal.damage or feeds.damaged_bundles)
        return cls(feeds.bodies.redactions, entry_at, partial(_holders, feeds), is_damaged)

    def damage_of(self, row: RecordRow) -> dict[str, Any] | None:
        """Return who may have a record whose bytes the disk has damaged, as JSON can hold it; none
        for one that is whole, or that is just being erased.
        """
        if is_whole(row, self.entry_at) or self.redactions.of(CID(row.cid), row.feed) is not None:
            return None
        return {"fetch_from": self.holders(row)}


def _holders(held: HeldFeeds, row: RecordRow) -> list[PeerId]:
    """Return a record's author, and the aggregator that acknowledged it."""
    key, known = (row.feed, row.epoch), held.acknowledged
    holders = [] if row.feed == held.key.public else [peer_id_of(row.feed)]
    if row.sequence < known.up_to.get(key, 0):
        holders.append(peer_id_of(known.by[key]))
    return holders
