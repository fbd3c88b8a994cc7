"""Which records of the mesh go into an export."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.lineage import trace
from aggregator.store import Store
from peer.exporting import AskedShelf, RowsOf, since
from peer.rows import RecordRow
from protocols.cid import CID
from protocols.tombstone import Redactions

__all__ = ["lineage", "since"]


def lineage(cid: CID, redactions: Redactions, depth: int | None = None) -> RowsOf:
    """Return the records of the lineage of ``cid``, as ``trace`` finds them, those of one bundle
    together; ``depth`` 1 is only the nearest. One that was redacted names nothing any more.
    """

    def walk(store: Store) -> list[RecordRow]:
        if redactions.of(cid) is not None and not store.records([cid]):
            return []
        closure = trace(store, cid, depth=depth) if depth else trace(store, cid)
        return list(closure.records.values())

    def rows(shelf: AskedShelf) -> Iterable[RecordRow]:
        return sorted(shelf.ask(walk), key=lambda row: (row.feed, row.epoch, row.sequence))

    return rows
