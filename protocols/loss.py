"""Losses: an aggregator's own signed word that a range of its feed is gone, and that it cannot give
it to anybody. It counts of the author's own feed alone, of what stands in front of it there, and
only while the range is not held: were it found after all, it would be kept like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from protocols.ack import Epoch
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Header
from protocols.limits import MAX_LOST_NAMED, MAX_LOST_RECORDS
from protocols.membership import LOSS
from protocols.record import Count, Record, kind_of

LOSS_KIND: Final = LOSS


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Records ``[first_sequence, next_sequence)`` of one epoch of the author's feed."""

    epoch: Epoch
    first_sequence: Count
    next_sequence: Count
    records: Annotated[tuple[CID, ...], Meta(max_length=MAX_LOST_NAMED)] = ()
    """Those of them that other records name, so that nobody misses them."""

    def __post_init__(self) -> None:
        """Refuse what is no range, or a longer one than a feed can have lost."""
        if not 0 < self.next_sequence - self.first_sequence <= MAX_LOST_RECORDS:
            raise ValueError("its range is empty, or longer than any that was lost")

    def stands_before(self, epoch: int, sequence: int) -> bool:
        """Say whether all of the range is in front of that place, where it is stated: nobody knows
        what of its feed will be lost.
        """
        return self.epoch < epoch or (self.epoch == epoch and self.next_sequence <= sequence)

    def covers(self, header: Header) -> bool:
        """Say whether a bundle of the author's is in the range."""
        starts, ends = header.first_sequence, header.next_sequence
        is_inside = self.first_sequence <= starts and ends <= self.next_sequence
        return is_inside and header.epoch == self.epoch

    def to_attributes(self) -> dict[str, Any]:
        """Return the loss as a record's attributes."""
        return {**msgspec.structs.asdict(self), "records": list(self.records)}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Loss:
        """Return the loss that a record of its kind states; raises ``RemoteProtocolError``."""
        try:
            return msgspec.convert(dict(attributes), cls, builtin_types=(bytes,))
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
