"""What the index remembers and the feeds hold no longer: its bytes in the journal are damaged.

The index keeps those rows, for they say what lay there, and no list of damaged places outlives a
process: whoever counts what is held compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aggregator.losses import Stated
from aggregator.store import Counts, FeedEpoch, Store
from peer.feeds import Feeds
from peer.index import Index
from peer.rows import BundleRow
from protocols.chain import Chain, covers
from protocols.cid import CID


class Size(NamedTuple):
    """How much is not held."""

    records: int = 0
    bundles: int = 0


class Absent(NamedTuple):
    """What the index has and the feeds hold no longer."""

    damaged: Size = Size()
    """It lies in damaged bytes and nowhere else."""
    lost: Size = Size()
    """As before, and we gave it up: it is of our own feed."""


async def counted(index: Index[Store], feeds: Feeds, stated: Stated) -> tuple[Counts, Absent]:
    """Count what the index has, and what of it nobody holds."""
    known = [*feeds.bodies.redactions.named(), *stated.records]
    counts = await index.ask(lambda store: store.counts(known))
    return counts, await absent_in(index, feeds, counts.bundles, stated)


async def absent_in(
    index: Index[Store], feeds: Feeds, remembered: Mapping[FeedEpoch, int], stated: Stated
) -> Absent:
    """Count what is damaged, or ``stated`` to be lost; ``remembered`` is how many bundles the index
    has of each feed, so that only feeds of which it has more than is held are looked at.
    """
    chains = feeds.chains
    odd = [key for key, count in remembered.items() if count > len(chains.get(key, ()))]
    if not odd:
        return Absent()
    rows = await index.ask(lambda store: [row for key in odd for row in store.bundles_of(*key)])
    gone = [row for row in rows if not _is_held(chains.get((row.feed, row.epoch)), row)]
    own = feeds.key.public
    lost: list[BundleRow] = []
    damaged: list[BundleRow] = []
    for row in gone:
        ranges = stated.ranges.get((row.feed, row.epoch), []) if row.feed == own else []
        is_lost = covers(ranges, row.first_sequence, row.next_sequence)
        (lost if is_lost else damaged).append(row)
    return Absent(await _size(index, damaged, own), await _size(index, lost, own))


async def _size(index: Index[Store], gone: Sequence[BundleRow], own: bytes) -> Size:
    records = await index.ask(lambda store: store.records_only_in(gone, own)) if gone else 0
    return Size(records, len({row.cid for row in gone}))


def held_told(counts: Counts, absent: Absent) -> dict[str, int]:
    """Return how many records and bundles are held, each once, however often it is on the disk."""
    records, bundles = (sum(each) for each in zip(*absent, strict=True))
    held = sum(counts.bundles.values()) - bundles
    return {"records": counts.records - records, "bundles": held}


def _is_held(chain: Chain | None, row: BundleRow) -> bool:
    return chain is not None and chain.find(row.first_sequence, CID(row.cid).digest) is not None
