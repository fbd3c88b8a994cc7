"""Asks connected peers for the records that others name and that have not arrived.

Most come by themselves, with the feeds that are followed. What is left was lost with its author, or
lies where a feed has more islands than one message tells; whoever holds it answers by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from aggregator.store import Store
from peer.dangling import Dangling, spread
from peer.effects import Effects
from peer.exchange import Exchange
from peer.feeds import Feeds
from peer.index import Index
from protocols.cid import CID
from protocols.feed import Header
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_DANGLING, MAX_SOUGHT, SEEK_PEERS, SEEK_RETRY_S_MIN

LOOK_SHARE: Final = 20.0  # times as long as looking took is waited: a twentieth of one core at most


class Seeking:
    """What this aggregator seeks and how it fares; ``run`` seeks."""

    def __init__(
        self, index: Index[Store], feeds: Feeds, exchange: Exchange, effects: Effects
    ) -> None:
        self._index = index
        self._feeds = feeds
        self._exchange = exchange
        self._effects = effects
        self._sought = Dangling()

    def status(self) -> dict[str, Any]:
        """Return how many records are sought, were asked for, have come so, and were given up; and
        what was done about authors who brought too much at once, who are named while it lasts.
        """
        sought, pace = self._sought, self._exchange.pace
        return {
            "dangling": len(sought),
            "tries": sought.tries,
            "found": sought.found,
            "given_up": sought.given_up,
            "put_off_bundles": pace.left_out,
            "slowed_s": round(pace.waited_s, 3),
            "slowed": [peer_id_of(author) for author in pace.slowed(trio.current_time())],
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for what is missing, and ask for it, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SEEK_RETRY_S_MIN)
            began = trio.current_time()
            missing = await self.missing()
            took_s = trio.current_time() - began
            await self.seek(missing)
            await trio.sleep(LOOK_SHARE * took_s)

    async def missing(self) -> list[bytes]:
        """Return the digests of what others name and has not arrived, but for what was redacted."""
        redacted = self._feeds.bodies.redactions.named()
        rows = await self._index.ask(lambda store: store.missing(MAX_DANGLING, redacted))
        return [CID(row.cid).digest for row in rows]

    async def seek(self, missing: Sequence[bytes]) -> None:
        """Ask for those of the missing that are due, at some of the peers that are up.

        What is no longer missing is forgotten; who made a record is not known, so chance chooses
        whom to ask, and each round anew.
        """
        self._sought.keep_only(missing)
        now = trio.current_time()
        for digest in missing:
            self._sought.want(digest, now)
        asked: set[bytes] = set()
        for peer in self._some(self._exchange.followed):
            question = spread(self._sought.due(now).get(None, []), MAX_SOUGHT)
            if question:
                asked.update(question)
                await self._ask(peer, question)
        self._sought.tried(asked, now)

    async def _ask(self, peer: PeerId, question: list[bytes]) -> None:
        for bundle in await self._exchange.seek(peer, question):
            self._sought.settle(self._here(bundle.header, bundle.cid))

    def _here(self, header: Header, cid: CID) -> list[bytes]:
        """Return which records of a bundle that came we hold now: it may have come without their
        bodies, or been refused.
        """
        start = header.first_sequence
        if not self._feeds.holds((header.feed, header.epoch), start, cid):
            return []
        absent = self._feeds.bodies.absent_from(header, cid)
        return [
            digest
            for sequence, digest in enumerate(header.digests, start)
            if sequence not in absent
        ]

    def _some(self, peers: list[PeerId]) -> list[PeerId]:
        return self._effects.rng.sample(peers, min(SEEK_PEERS, len(peers)))
