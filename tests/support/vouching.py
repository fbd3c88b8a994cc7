"""Checkpoints of an aggregator whose feed a test writes."""

from __future__ import annotations

from collections.abc import Iterable

from protocols.chain import Chain, Link
from protocols.checkpoint import (
    CHECKPOINT_KIND,
    HEADS_KIND,
    HEADS_ROLE,
    Checkpoint,
    heads_blocks,
)
from protocols.cid import CID
from protocols.feed import Bundle, Head
from tests.support.home import Author


def add_checkpoint(author: Author, heads: Iterable[Head], *, is_block_told: bool = False) -> Bundle:
    """Cut a checkpoint that lists these heads; its block is in an earlier bundle where it was told
    before.
    """
    listed = sorted(heads)
    [block] = list(heads_blocks(listed)) or [{"heads": []}]
    cid = author.add_block(HEADS_KIND, **block)
    if is_block_told:
        author.records.pop()
    said = Checkpoint(state_root=CID.of(b"root"), heads=len(listed), records=1)
    author.add(CHECKPOINT_KIND, used=((cid, HEADS_ROLE),), attributes=said.to_attributes())
    return author.cut()


def head_of(*bundles: Bundle) -> Head:
    """Where a run of these bundles stands."""
    first, last = bundles[0].header, bundles[-1].header
    return Head(first.feed, first.epoch, first.first_sequence, last.next_sequence, bundles[-1].cid)


def chain_holding(bundles: Iterable[Bundle]) -> Chain:
    """What holds these bundles of one epoch."""
    chain = Chain()
    for each in bundles:
        chain.add(Link.of(each.header, each.cid.digest, 0))
    return chain
