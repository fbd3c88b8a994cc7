"""What every check begins and ends with: the walk over the journal beside the index that follows
it, and letting go of damage behind which nothing is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import trio

from peer.check import Finding, Walked, beyond, unreadable, walk
from peer.feeds import Feeds
from peer.healing import heal, is_healed, size_bytes
from peer.index import FollowingStore, Index
from peer.journal import Journal, JournalFullError
from peer.tables import Lost, Rows
from protocols.journal import Damage

log = logging.getLogger(__name__)

_walking = trio.CapacityLimiter(1)  # a walk reads the whole journal: one at a time is enough


@dataclass(frozen=True, slots=True)
class Inspection:
    """A journal as it lies on the disk, and what the index remembers of what is damaged there."""

    rows: Rows
    walked: Walked
    lost_in: Mapping[Damage, list[Lost]]
    lost_before: tuple[Lost, ...]
    """What lay in a tail that was cut, and did not come again."""

    @property
    def lost(self) -> list[Lost]:
        """What lay in bytes that are damaged or gone, and is nowhere else."""
        return [*self.lost_before, *(each for found in self.lost_in.values() for each in found)]


async def inspect(index: Index[Any], journal: Journal, feeds: Feeds) -> Inspection:
    """Walk the journal; bundles that are found damaged are held no longer."""
    await index.catch_up()
    rows: Rows = await index.ask(lambda store: store.rows())
    entries, own = journal.inspect(rows.mark), feeds.key.public
    walked = await trio.to_thread.run_sync(walk, entries, own, limiter=_walking)
    feeds.quarantine(unreadable(walked))

    def lost_in(store: FollowingStore) -> dict[Damage, list[Lost]]:
        return {damage: store.lost(*damage) for damage in walked.damage}

    lost_before = tuple(_not_held(walked, index.lost))
    return Inspection(rows, walked, await index.ask(lost_in), lost_before)


def _not_held(walked: Walked, lost: Iterable[Lost]) -> Iterator[Lost]:
    """Yield what of a tail that was cut did not come again."""
    for feed, epoch, first, end in lost:
        chain = walked.chains.get((feed, epoch))
        held = chain.ranges() if chain is not None else []
        yield from (Lost(feed, epoch, *left) for left in beyond(held, [(first, end)]))


async def conclude(
    inspection: Inspection,
    findings: Iterable[Finding],
    index: Index[Any],
    journal: Journal,
    feeds: Feeds,
) -> dict[str, Any]:
    """Let go of damage behind which nothing is missing, and return the answer to a check."""
    walked, told = inspection.walked, [asdict(finding) for finding in findings]
    settled_at = feeds.settled_at
    healable = [
        each for each, lost in inspection.lost_in.items() if is_healed(each, lost, settled_at)
    ]
    healed = await _healed(journal, index, healable)
    journal.damage = [each for each in walked.damage if each not in healed]
    return {
        "ok": not told,
        "journal_bytes": inspection.rows.mark,
        "damaged_bytes": size_bytes(walked.damage),
        "healed_bytes": size_bytes(healed),
        "tail_cut_bytes": journal.tail_cut_bytes,
        "quarantined": feeds.quarantined,
        "entries": walked.entries,
        "bundles": walked.bundles,
        "records": walked.records,
        "bodiless": walked.bodiless,
        "feeds": len({feed for feed, _ in walked.chains}),
        "findings": told,
    }


async def _healed(journal: Journal, index: Index[Any], healable: list[Damage]) -> list[Damage]:
    """Return what ``heal`` let go of: nothing while the disk is full, and a later check does."""
    try:
        return await heal(journal, index, healable)
    except JournalFullError as error:
        log.warning("damage not healed", extra={"reason": error.message})
        return []
