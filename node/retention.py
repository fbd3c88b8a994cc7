"""What this node keeps of its journal when it lets go of acknowledged records."""

from __future__ import annotations

from node.accepted import AcceptedJobs
from node.config import Records
from node.salts import Salts
from peer.feeds import Feeds
from peer.journal import Journal
from peer.retention import Keep, Retention
from protocols.journal import Entry


def retention_of(
    journal: Journal, feeds: Feeds, options: Records, salts: Salts, accepted: AcceptedJobs
) -> Retention:
    """Return the retention that ``options`` ask for. Salts that are remembered stay, and the
    acceptances that make a retried job id the same job.
    """

    def is_needed(kind: Entry, body: bytes) -> bool:
        return salts.needs(body) if kind is Entry.SALT else accepted.needs(body)

    keep = Keep(options.keep_days, options.keep_mb << 20)
    return Retention(journal, feeds, keep, is_needed)
