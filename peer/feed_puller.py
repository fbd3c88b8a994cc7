"""The asking side of ``/covey/feed/1``: one stream on which we pull another peer's feeds."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from peer.feed_server import Recent, send
from peer.feeds import Feeds
from protocols.ack import SignedAck
from protocols.chain import Link
from protocols.errors import Refused
from protocols.feed import Bundle, UnverifiedBundle
from protocols.keys import PeerId
from protocols.limits import MAX_ACK_FEEDS, PULL_SILENCE_S
from protocols.sync import (
    PROTOCOL,
    Ack,
    Ask,
    BundleMessage,
    FeedEpoch,
    Fetch,
    Have,
    Inventory,
    Message,
    Offer,
    Refuse,
    Side,
    Tip,
    fetch_messages,
    unpack,
    want_messages,
)
from protocols.transport import Stream, Transport


class FeedPuller:
    """One stream on which we ask: for what there is now and, to ``follow``, for all that comes."""

    def __init__(
        self,
        transport: Transport,
        feeds: Feeds,
        peer_id: PeerId,
        came_from: Recent,
        *,
        follow: bool,
    ) -> None:
        self._transport = transport
        self._feeds = feeds
        self._peer_id = peer_id
        self._came_from = came_from
        self._follow = follow
        self._side = Side.puller()
        self._offer = Offer()
        self.has_caught_up = False
        """Whether the server has sent all that we lacked when we asked."""

    async def run(self) -> None:
        """Pull until the server ends the stream; raises what ended it otherwise."""
        stream = await self._transport.open_stream(self._peer_id, PROTOCOL)
        try:
            for want in want_messages(self._feeds.chains, follow=self._follow):
                await send(stream, [want])
            while (messages := await self._receive(stream)) is not None:
                for reply in await self._take(messages):
                    await send(stream, [reply])
        finally:
            await stream.aclose()

    async def _receive(self, stream: Stream) -> list[Message] | None:
        with trio.fail_after(PULL_SILENCE_S):
            payload = await stream.receive()
        return None if payload is None else self._side.receive(payload)

    async def _take(self, messages: list[Message]) -> list[Message]:
        """Take in one frame; return what to say to it."""
        await self._add([m for m in messages if isinstance(m, BundleMessage)])
        replies: list[Message] = []
        for message in messages:
            if isinstance(message, Refuse):
                raise Refused(message.reason, code=message.code)
            if isinstance(message, Have):
                self._offer.have(message)
            elif isinstance(message, Inventory):
                replies += self._lacking(message)
            elif isinstance(message, Tip):
                self.has_caught_up = True
                self._offer.caught_up()
                replies += [Ask(*key) for key in self._offer.doubts(self._feeds.chains)]
        return replies + self._acks()

    async def _add(self, messages: list[BundleMessage]) -> None:
        """Verify and keep what is new; everything in ``messages`` is on the disk afterwards."""
        opened: list[UnverifiedBundle] = []
        fresh: list[Bundle] = []
        for message in messages:
            bundle = UnverifiedBundle.open(unpack(message))
            opened.append(bundle)
            if not self._feeds.holds(_key(bundle), bundle.header.first_sequence, bundle.cid):
                fresh.append(bundle.verify())
                await trio.lowlevel.checkpoint()  # a millisecond each; others wait for this thread
        self._came_from.update(bundle.cid for bundle in opened)
        await self._feeds.add_all(fresh)
        if self.has_caught_up:
            for bundle in opened:
                self._offer.fresh(_key(bundle), Link.of(bundle.header, bundle.cid.digest, 0))

    def _lacking(self, inventory: Inventory) -> Iterator[Fetch]:
        chain = self._feeds.chains.get((inventory.feed, inventory.epoch))
        named = [b for b in inventory.bundles if chain is None or chain.find(*b) is None]
        return fetch_messages((inventory.feed, inventory.epoch), named)

    def _acks(self) -> list[Message]:
        if not self._feeds.is_signing:
            return []
        entries = self._offer.acks(self._feeds.chains)
        acks: list[Message] = []
        for start in range(0, len(entries), MAX_ACK_FEEDS):
            part = entries[start : start + MAX_ACK_FEEDS]
            ack = SignedAck.sign(self._feeds.key, part, self._feeds.effects.now_us())
            acks.append(Ack(ack.payload, ack.signature))
        return acks


def _key(bundle: UnverifiedBundle) -> FeedEpoch:
    return bundle.header.feed, bundle.header.epoch
