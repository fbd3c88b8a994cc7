"""Checkpoints: an aggregator's signed word about what it held at one moment.

A checkpoint is a record with the state root and counts; the heads themselves, by which whatever is
lost later can be named, stand in blocks that it uses, a few hundred each. A block is named by its
content, so heads that did not move are not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Head
from protocols.limits import MAX_CHECKPOINT_HEADS
from protocols.membership import CHECKPOINT
from protocols.record import Count, PublicKey

CHECKPOINT_KIND: Final = CHECKPOINT
HEADS_KIND: Final = "state.heads"
HEADS_ROLE: Final = "heads"
KINDS: Final = (CHECKPOINT_KIND, HEADS_KIND)
"""What a checkpoint writes itself: no reason for another one."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was held when it was signed."""

    state_root: CID
    heads: Count
    """How many there are in its blocks: a feed has one for each epoch and each unbroken run."""
    records: Count

    def to_attributes(self) -> dict[str, Any]:
        """Return the checkpoint as a record's attributes."""
        return msgspec.structs.asdict(self)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint that a record of its kind holds; raises
        ``RemoteProtocolError``.
        """
        return _convert(dict(attributes), cls)


class _Row(msgspec.Struct, frozen=True, array_like=True):
    feed: PublicKey
    epoch: Count
    first_sequence: Count
    next_sequence: Count
    header: CID


class _Heads(msgspec.Struct, frozen=True):
    heads: Annotated[tuple[_Row, ...], Meta(max_length=MAX_CHECKPOINT_HEADS)]


def heads_blocks(heads: Iterable[Head]) -> Iterator[dict[str, Any]]:
    """Yield the attributes of the blocks that hold these heads, in their order."""
    rest = iter(sorted(heads))
    while part := list(islice(rest, MAX_CHECKPOINT_HEADS)):
        yield {
            "heads": [
                [head.feed, head.epoch, head.first_sequence, head.next_sequence, head.header]
                for head in part
            ]
        }


def heads_in(attributes: Mapping[str, Any]) -> list[Head]:
    """Return the heads of one block; raises ``RemoteProtocolError``."""
    return [
        Head(row.feed, row.epoch, row.first_sequence, row.next_sequence, row.header)
        for row in _convert(dict(attributes), _Heads).heads
    ]


def _convert(value: dict[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a checkpoint is invalid: {error}") from error
