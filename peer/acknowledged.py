"""Up to where aggregators have promised to keep what this peer holds."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.ack import AckEntry, SignedAck
from protocols.chain import Chain

FeedEpoch = tuple[bytes, int]


class Acknowledged:
    """The furthest acknowledgement of each feed's epoch in ``chains``, and whose it is."""

    def __init__(self, chains: Mapping[FeedEpoch, Chain]) -> None:
        self._chains = chains
        self.up_to: dict[FeedEpoch, int] = {}
        self.by: dict[FeedEpoch, bytes] = {}
        """The aggregators' public keys."""

    def bounded(self, ack: SignedAck) -> SignedAck:
        """Return an acknowledgement of which only what was held here counts: nobody can have had
        more from us.
        """
        return ack.only(self._is_possible)

    def is_news(self, ack: SignedAck) -> bool:
        """Say whether an acknowledgement says anything that was not known."""
        return any(map(self._is_new, ack.feeds))

    def note(self, ack: SignedAck) -> None:
        """Take in an acknowledgement that is on the disk."""
        for entry in filter(self._is_new, ack.feeds):
            self.up_to[entry.feed, entry.epoch] = entry.next_sequence
            self.by[entry.feed, entry.epoch] = ack.content.aggregator

    def rests_on(self, ack: SignedAck) -> bool:
        """Say whether what is known would be less without this acknowledgement."""
        return any(
            self.up_to.get((entry.feed, entry.epoch)) == entry.next_sequence
            and self.by[entry.feed, entry.epoch] == ack.content.aggregator
            for entry in ack.feeds
        )

    def _is_possible(self, entry: AckEntry) -> bool:
        chain = self._chains.get((entry.feed, entry.epoch))
        return chain is not None and entry.next_sequence <= chain.next_sequence

    def _is_new(self, entry: AckEntry) -> bool:
        key = (entry.feed, entry.epoch)
        chain = self._chains.get(key)
        if chain is None or entry.first_sequence > chain.dropped_below:
            return False  # it does not reach down to what we still hold
        return self._is_possible(entry) and self.up_to.get(key, 0) < entry.next_sequence
