"""What this node keeps of its journal when it lets go of acknowledged records."""

from __future__ import annotations

from collections.abc import Collection

from node.accepted import AcceptedJobs
from node.config import Records
from node.salts import Salts
from node.store import Store
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.retention import Keep, Needed, Retention
from protocols.journal import Entry


def retention_of(
    journal: Journal, feeds: Feeds, index: Index[Store], options: Records, needed: Needed
) -> Retention:
    """Return the retention that ``options`` ask for; ``index`` is told of what it erases."""

    async def forewarn(places: Collection[int]) -> None:
        await index.catch_up()
        await index.ask(lambda store: store.unpin(places))

    keep = Keep(options.keep_days, options.keep_mb << 20)
    return Retention(journal, feeds, keep, needed, forewarn)


def needed_by(salts: Salts, accepted: AcceptedJobs) -> Needed:
    """Return what has salts stay that are remembered, and the acceptances that make a retried job
    id the same job.
    """

    def needed_of(kind: Entry, body: bytes) -> bytes:
        if kind is Entry.SALT:
            return salts.needed_of(body)
        return body if accepted.needs(body) else b""

    return needed_of
