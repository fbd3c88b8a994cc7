"""Which epochs of which feeds are kept: as many as memory holds, and of one feed so many that it
crowds out no other.
"""

from __future__ import annotations

import logging
from collections import Counter

from peer.acknowledged import FeedEpoch
from protocols.errors import RemoteProtocolError
from protocols.keys import peer_id_of
from protocols.limits import MAX_EPOCHS_PER_FEED, MAX_FEEDS

log = logging.getLogger(__name__)


class KnownEpochs:
    """Counts epochs, of each feed and in all."""

    def __init__(self) -> None:
        self._known: set[FeedEpoch] = set()
        self._of_feed: Counter[bytes] = Counter()
        self._crowded: set[bytes] = set()

    def admit(self, key: FeedEpoch) -> bool:
        """Say whether bundles of this feed's epoch are kept, and count it if they are; raises
        ``RemoteProtocolError`` when there would be more feeds than memory should hold.
        """
        if key in self._known:
            return True
        if self._of_feed[key[0]] >= MAX_EPOCHS_PER_FEED:
            if key[0] not in self._crowded:
                self._crowded.add(key[0])
                log.warning("too many epochs of a feed", extra={"feed": peer_id_of(key[0])})
            return False
        if len(self._known) >= MAX_FEEDS:
            raise RemoteProtocolError(
                f"more than {MAX_FEEDS} feeds and epochs", code="too-many-feeds"
            )
        self.count(key)
        return True

    def count(self, key: FeedEpoch) -> None:
        """Count an epoch that is held already."""
        if key not in self._known:
            self._known.add(key)
            self._of_feed[key[0]] += 1
