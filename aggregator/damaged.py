"""What the index remembers and the feeds hold no longer: its bytes in the journal are damaged.

The index keeps those rows, for they say what lay there, and no list of damaged places outlives a
process: whoever counts what is held compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aggregator.store import Counts, FeedEpoch, Store
from peer.feeds import Feeds
from peer.index import Index
from peer.rows import BundleRow
from protocols.chain import Chain
from protocols.cid import CID


class Damaged(NamedTuple):
    """How much lies in damaged bytes and nowhere else."""

    records: int = 0
    bundles: int = 0


async def damaged_in(
    index: Index[Store], feeds: Feeds, remembered: Mapping[FeedEpoch, int]
) -> Damaged:
    """Count what is damaged; ``remembered`` is how many bundles the index has of each feed, so that
    only feeds of which it has more than is held are looked at.
    """
    chains = feeds.chains
    odd = [key for key, count in remembered.items() if count > len(chains.get(key, ()))]
    if not odd:
        return Damaged()
    rows = await index.ask(lambda store: [row for key in odd for row in store.bundles_of(*key)])
    gone = [row for row in rows if not _is_held(chains.get((row.feed, row.epoch)), row)]
    own = feeds.key.public
    records = await index.ask(lambda store: store.records_only_in(gone, own)) if gone else 0
    return Damaged(records, len({row.cid for row in gone}))


def held_told(counts: Counts, damaged: Damaged) -> dict[str, int]:
    """Return how many records and bundles are held, each once, however often it is on the disk."""
    bundles = sum(counts.bundles.values()) - damaged.bundles
    return {"records": counts.records - damaged.records, "bundles": bundles}


def _is_held(chain: Chain | None, row: BundleRow) -> bool:
    return chain is not None and chain.find(row.first_sequence, CID(row.cid).digest) is not None
