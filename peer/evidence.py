"""From an answer's index rows back to the signed bytes in the journal: an index proves nothing.

A record is verified when the journal holds a header that the feed's own key signed and that commits
to the record's digest, and the record's bytes have that digest (``peer.copies``), and they say what
the answer shows. All of it is checked when it is asked: a flipped bit on disk or a forged index
shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peer.copies import Copies, EntryAt, Places
from peer.rows import EdgeRow, RecordRow, rows_of


def verified(
    entry_at: EntryAt,
    index: Places,
    rows: Iterable[RecordRow],
    links: Mapping[bytes, Iterable[EdgeRow]],
) -> dict[bytes, bool]:
    """Return for each record whether signed bytes for it are in the journal, hold, and say
    everything that the index shows of it.
    """
    copies = Copies(entry_at, index)
    told: dict[bytes, bool] = {}
    for row in sorted(rows, key=lambda row: (row.feed, row.epoch, row.sequence)):
        copy = copies.of(row)
        is_proven = copy is not None and _says(copy.encoded, row, links.get(row.cid, ()))
        told[row.cid] = is_proven
    return told


def _says(encoded: bytes, row: RecordRow, links: Iterable[EdgeRow]) -> bool:
    """Tell whether a record's bytes say what its row and links show."""
    told, its_links = rows_of(encoded, (row.feed, row.epoch, row.sequence), row.place)
    return told == row and set(links) <= set(its_links)
