"""Signs, about hourly, what this aggregator holds, and compares what aggregators once vouched for
with what is held now.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import trio

from aggregator.explain import moment
from aggregator.store import Store
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import JournalError, JournalFullError
from peer.recorder import Recorder
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.chain import Chain, Link, Run
from protocols.checkpoint import (
    CHECKPOINT_KIND,
    HEADS_KIND,
    HEADS_ROLE,
    KINDS,
    Checkpoint,
    heads_blocks,
    heads_in,
)
from protocols.cid import CID
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.feed import Head
from protocols.keys import peer_id_of
from protocols.limits import CHECKPOINT_EVERY_S, CHECKPOINT_FIRST_S

log = logging.getLogger(__name__)

FeedEpoch = tuple[bytes, int]


class Vouched(NamedTuple):
    """One aggregator's latest checkpoint."""

    feed: bytes
    cid: CID
    at_us: int
    place: int
    checkpoint: Checkpoint
    heads: list[Head] | None
    """None when a block of them has not arrived."""


def lost_since(vouched: Vouched, chains: Mapping[FeedEpoch, Chain]) -> list[Head]:
    """Return the heads of a checkpoint whose runs are not held whole in ``chains``."""

    def is_held(head: Head) -> bool:
        chain = chains.get((head.feed, head.epoch))
        run = Run(head.first_sequence, head.next_sequence, head.header.digest)
        return chain is not None and chain.covers(run)

    return [head for head in vouched.heads or () if not is_held(head)]


def vouched_told(vouched: Vouched, feeds: Feeds) -> dict[str, Any]:
    """Return what a checkpoint says, and whether ``feeds`` hold what it vouches for."""
    lost = lost_since(vouched, feeds.chains)
    return {
        "peer": peer_id_of(vouched.feed),
        "is_own": vouched.feed == feeds.key.public,
        "cid": str(vouched.cid),
        "at": moment(vouched.at_us),
        "state_root": str(vouched.checkpoint.state_root),
        "records": vouched.checkpoint.records,
        "heads": vouched.checkpoint.heads,
        "is_held": None if vouched.heads is None else not lost,
        "lacking": sorted({peer_id_of(head.feed) for head in lost}),
    }


class _Shown(NamedTuple):
    link: Link
    feeds: frozenset[bytes] | None
    """Whose heads are there; none for the checkpoint itself, which concerns all."""


@dataclass(slots=True)
class Checkpoints:
    """Makes and reads checkpoints of one aggregator."""

    feeds: Feeds
    index: Index[Store]
    recorder: Recorder
    _making: trio.Lock = field(default_factory=trio.Lock)
    _shown: list[_Shown] = field(default_factory=list[_Shown])
    """Where the latest of ours stands; nothing while another one is being made, or whoever is told
    of it could not know that the next one was made later."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sign one soon after the start and then hourly, if there is news, until cancelled; tell
        authors of the latest one.
        """
        self.feeds.vouching = self.vouching
        await self._show()
        task_status.started()
        await trio.sleep(CHECKPOINT_FIRST_S)
        while True:
            try:
                await self.make()
            except JournalFullError as error:
                log.warning("no checkpoint", extra={"reason": error.message})
            await trio.sleep(CHECKPOINT_EVERY_S)

    async def make(self) -> Vouched | None:
        """Sign a checkpoint and return it; none when nothing came since the last but checkpoints,
        so that two aggregators that follow each other fall silent.
        """
        if not self.feeds.is_signing:
            raise CoveyError(
                "another machine runs with the same identity, so this one signs nothing",
                code="duplicate-instance",
                hint="stop one of the two, then start this one again",
            )
        async with self._making:
            self._shown = []
            try:
                made = await self._make()
            except JournalError:
                await self._show()
                raise
            await self._show()
            return made

    def vouching(self, feed: bytes) -> list[Link]:
        """Return the bundles by which the author of a feed sees what our latest checkpoint says of
        it: the blocks of heads that name it, then the checkpoint.
        """
        told = [each for each in self._shown if each.feeds is None or feed in each.feeds]
        return list({each.link.digest: each.link for each in told}.values())

    async def _show(self) -> None:
        own = self.feeds.key.public
        rows = await self.index.ask(lambda store: _rows_of_latest(store, own))
        self._shown = [
            _Shown(link, _feeds_in(row))
            for row in rows
            if (chain := self.feeds.chains.get((own, row.epoch))) is not None
            for link in chain.over(row.sequence)
        ]

    async def _make(self) -> Vouched | None:
        await self.feeds.cut_all()
        await self.index.catch_up()
        last = (await self.latest()).get(self.feeds.key.public)
        since = last.place if last else -1
        if not await self.index.ask(lambda store: store.has_news(since, KINDS)):
            return None
        counts = await self.index.ask(Store.counts)
        heads, root = self.feeds.heads(), self.feeds.state_root()  # of one moment
        blocks = [
            await self.recorder.block(HEADS_KIND, attributes) for attributes in heads_blocks(heads)
        ]
        checkpoint = Checkpoint(state_root=root, heads=len(heads), records=counts.records)
        await self.recorder.activity(
            CHECKPOINT_KIND,
            used=[(block, HEADS_ROLE) for block in blocks],
            start_us=self.recorder.effects.now_us(),
            attributes=checkpoint.to_attributes(),
        )
        await self.feeds.cut_all()
        await self.index.catch_up()
        return (await self.latest())[self.feeds.key.public]

    async def latest(self) -> dict[bytes, Vouched]:
        """Return the latest checkpoint in each feed that has any."""
        return await self.index.ask(latest_in)


def latest_in(store: Store) -> dict[bytes, Vouched]:
    """Return the latest checkpoint in each feed of an index."""
    rows: dict[bytes, RecordRow] = {}
    for row in store.records_since(0, (CHECKPOINT_KIND,)):  # in the order of each feed
        rows[row.feed] = row
    read = ((feed, _read(store, row)) for feed, row in rows.items())
    return {feed: vouched for feed, vouched in read if vouched is not None}


def _rows_of_latest(store: Store, own: bytes) -> list[RecordRow]:
    """Return the rows of the latest checkpoint in a feed: its blocks of heads, then itself."""
    rows = [row for row in store.records_since(0, (CHECKPOINT_KIND,)) if row.feed == own]
    if not rows:
        return []
    blocks = {edge.target for edge in store.edges_of([rows[-1].cid]) if edge.role == HEADS_ROLE}
    return [*(row for row in store.records(blocks) if row.feed == own), rows[-1]]


def _feeds_in(row: RecordRow) -> frozenset[bytes] | None:
    if row.kind != HEADS_KIND:
        return None
    heads = heads_in(dagcbor.decode_verified(row.attributes))
    return frozenset(head.feed for head in heads)


def _read(store: Store, row: RecordRow) -> Vouched | None:
    try:
        checkpoint = Checkpoint.from_attributes(dagcbor.decode_verified(row.attributes))
        blocks = {edge.target for edge in store.edges_of([row.cid]) if edge.role == HEADS_ROLE}
        heads = _heads(store.records(blocks), blocks, checkpoint)
    except RemoteProtocolError:
        return None  # its author may write what it likes in its own feed
    return Vouched(row.feed, CID(row.cid), row.start_us, row.place, checkpoint, heads)


def _heads(
    rows: Iterable[RecordRow], blocks: set[Any], checkpoint: Checkpoint
) -> list[Head] | None:
    found = list(rows)
    if {row.cid for row in found} != blocks:
        return None
    heads = [head for row in found for head in heads_in(dagcbor.decode_verified(row.attributes))]
    return sorted(heads) if len(heads) == checkpoint.heads else None
