"""Answers who asks for records by name: finds the bundles that hold them.

A record's name is a digest that only those know who were told it or hold the record, so a member
that may not read whole feeds may ask for the records of its own jobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

import trio

from peer.feeds import Feeds
from peer.index import FollowingStore, Index
from peer.tables import RecordPlace
from protocols.chain import Link
from protocols.cid import CID, DAG_CBOR, RAW
from protocols.errors import Refused
from protocols.feed import Bundle
from protocols.keys import PeerId
from protocols.limits import MAX_SOUGHT, SEEK_SPACING_S
from protocols.sought import answers

MAX_PLACES: Final = 2 * MAX_SOUGHT  # a tail that moved stands twice


Find = Callable[[Sequence[bytes]], Awaitable[list[RecordPlace]]]
"""Returns where records stand, by their digests or by those of what our own records made; of what
is not here, nothing.
"""


async def find_nothing(_digests: Sequence[bytes]) -> list[RecordPlace]:
    """Stand for an index where there is none."""
    await trio.lowlevel.checkpoint()
    return []


class RecordStore(FollowingStore, Protocol):
    """A store that finds records."""

    def holding(self, cids: Iterable[bytes], own: bytes, limit: int, /) -> list[RecordPlace]:
        """Return where these records stand, and those of the feed ``own`` that made something of
        these names.
        """
        ...


S = TypeVar("S", bound=RecordStore)


def in_index(index: Index[S], own: bytes) -> Find:
    """Return how to find records in an index, which catches up first; ``own`` is our feed."""

    async def find(digests: Sequence[bytes]) -> list[RecordPlace]:
        cids = [CID.of_digest(digest, codec) for digest in digests for codec in (DAG_CBOR, RAW)]
        await index.catch_up()
        return await index.ask(lambda store: store.holding(cids, own, MAX_PLACES))

    return find


class Finder:
    """Finds the bundles that hold what is asked for; each peer may ask once in
    ``SEEK_SPACING_S``.
    """

    def __init__(self, feeds: Feeds, find: Find) -> None:
        self._feeds = feeds
        self._find = find
        self._asked_at: dict[PeerId, float] = {}
        self._turn = trio.Lock()

    def forget(self, peer_id: PeerId) -> None:
        """The peer is gone."""
        self._asked_at.pop(peer_id, None)

    async def bundles(self, peer_id: PeerId, digests: Sequence[bytes]) -> list[bytes]:
        """Return the bundles that hold these records or the makers of these things, at most one for
        each, in the order of their feeds; raises ``Refused`` when the peer asks too often.

        Records of ours that no bundle holds yet are cut for it.
        """
        now = trio.current_time()
        if now - self._asked_at.get(peer_id, -SEEK_SPACING_S) < SEEK_SPACING_S:
            raise Refused("asked again too soon", code="too-soon")
        self._asked_at[peer_id] = now
        async with self._turn:  # each looks through the whole index, which serves others too
            places = await self._find(digests)
        if any(self._is_uncut(place) for place in places):
            await self._cut()
        return await self._read(places, frozenset(digests))

    def _is_uncut(self, place: RecordPlace) -> bool:
        return place.feed == self._feeds.key.public and not self._links(place)

    async def _cut(self) -> None:
        self._feeds.allow_cutting()  # who may ask has said hello, and with it where it saw us
        await self._feeds.cut_all()

    def _links(self, place: RecordPlace) -> list[Link]:
        chain = self._feeds.chains.get((place.feed, place.epoch))
        return [] if chain is None else chain.over(place.sequence)

    async def _read(self, places: Sequence[RecordPlace], sought: frozenset[bytes]) -> list[bytes]:
        """Read the bundles; of a fork's branches over one place, those that hold it."""
        links = {link.digest: link for place in places for link in self._links(place)}
        found: list[bytes] = []
        for link in links.values():
            await trio.lowlevel.checkpoint()  # a tenth of a millisecond each, and up to 64
            bundle = self._feeds.read(link)
            if bundle is not None and answers(Bundle.decode_verified(bundle), sought):
                found.append(bundle)
        return found[: len(sought)]
