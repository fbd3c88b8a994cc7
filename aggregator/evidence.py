"""From an answer's index rows back to the signed bytes in the journal: an index proves nothing.

A record is verified when the journal holds a header that the feed's own key signed and that commits
to the record's digest, and the record's bytes have that digest (``peer.copies``), and they say what
the answer shows. All of it is checked when it is asked: a flipped bit on disk or a forged index
shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aggregator.store import Store
from peer.copies import BundlesOver, Copies, EntryAt
from peer.rows import EdgeRow, RecordRow, rows_of
from protocols.cid import CID
from protocols.tombstone import Redaction


def verified(
    entry_at: EntryAt,
    bundles_over: BundlesOver,
    rows: Iterable[RecordRow],
    links: Mapping[bytes, Iterable[EdgeRow]],
) -> dict[bytes, bool]:
    """Return for each record whether signed bytes for it are in the journal, hold, and say
    everything that the index shows of it.
    """
    copies = Copies(entry_at, bundles_over)
    told: dict[bytes, bool] = {}
    for row in sorted(rows, key=lambda row: (row.feed, row.epoch, row.sequence)):
        copy = copies.of(row)
        is_proven = copy is not None and _says(copy.encoded, row, links.get(row.cid, ()))
        told[row.cid] = is_proven
    return told


def shown_of(entry_at: EntryAt, store: Store, redactions: Iterable[Redaction]) -> set[Redaction]:
    """Return those of these redactions whose tombstones, and the certificates by which they count,
    are ``verified``: the others hold, and nobody can be shown that they do.
    """
    statements = {
        each: {cid for cid in (each.tombstone, each.certificate) if cid is not None}
        for each in redactions
    }
    rows = store.records(set[CID]().union(*statements.values())) if statements else []
    told = verified(entry_at, store.bundles_over, rows, {})
    return {each for each, cids in statements.items() if all(told.get(cid, False) for cid in cids)}


def _says(encoded: bytes, row: RecordRow, links: Iterable[EdgeRow]) -> bool:
    """Tell whether a record's bytes say what its row and links show."""
    told, its_links = rows_of(encoded, (row.feed, row.epoch, row.sequence), row.place)
    return told == row and set(links) <= set(its_links)
