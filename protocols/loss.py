"""Losses: an author's own signed word that a range of its feed is gone, and that it cannot give it
to anybody. It counts of the author's own feed alone, and only while the range is not held: were it
found after all, it would be kept like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from protocols.ack import Epoch
from protocols.errors import RemoteProtocolError
from protocols.feed import Header
from protocols.record import Count, Record, kind_of

LOSS_KIND: Final = "feed.lost"


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Records ``[first_sequence, next_sequence)`` of one epoch of the author's feed."""

    epoch: Epoch
    first_sequence: Count
    next_sequence: Count

    def covers(self, header: Header) -> bool:
        """Say whether a bundle of the author's is in the range."""
        starts, ends = header.first_sequence, header.next_sequence
        is_inside = self.first_sequence <= starts and ends <= self.next_sequence
        return is_inside and header.epoch == self.epoch

    def to_attributes(self) -> dict[str, Any]:
        """Return the loss as a record's attributes."""
        return msgspec.structs.asdict(self)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Loss:
        """Return the loss that a record of its kind states; raises ``RemoteProtocolError``."""
        try:
            return msgspec.convert(dict(attributes), cls)
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a loss is invalid: {error}") from error


def loss_in(stored: bytes) -> Loss | None:
    """Return the loss that a stored record states, if it is such a record; at the speed of memory
    where it is none.
    """
    if _MARK not in stored or kind_of(stored) != LOSS_KIND:
        return None
    try:
        return Loss.from_attributes(Record.decode_verified(stored).attributes)
    except RemoteProtocolError:
        return None


_MARK: Final = LOSS_KIND.encode()
