"""Which redactions can be shown to anybody, by signed bytes in the journal."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.store import Store
from peer.copies import EntryAt
from peer.evidence import verified
from protocols.cid import CID
from protocols.tombstone import Redaction


def shown_of(entry_at: EntryAt, store: Store, redactions: Iterable[Redaction]) -> set[Redaction]:
    """Return those of these redactions whose tombstones, and the certificates by which they count,
    are ``verified``: the others hold, and nobody can be shown that they do.
    """
    statements = {
        each: {cid for cid in (each.tombstone, each.certificate) if cid is not None}
        for each in redactions
    }
    rows = store.records(set[CID]().union(*statements.values())) if statements else []
    told = verified(entry_at, store, rows, {})
    return {each for each, cids in statements.items() if all(told.get(cid, False) for cid in cids)}
