"""The asking side of ``/covey/feed/1``: one stream on which we pull another peer's feeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import trio

from peer.feed_server import Recent, send
from peer.feeds import Feeds
from peer.pace import Pace
from protocols.ack import SignedAck
from protocols.chain import Link
from protocols.cid import CID
from protocols.errors import Refused, RemoteProtocolError
from protocols.feed import Bundle, UnverifiedBundle
from protocols.keys import PeerId, public_key_of
from protocols.limits import (
    BUNDLES_PER_FRAME_BYTES,
    MAX_ACK_FEEDS,
    MAX_BUNDLE_BYTES,
    MAX_FETCHES,
    MAX_TOLD_BUNDLES,
    PULL_SILENCE_S,
)
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
    Refuse,
    Side,
    Tell,
    Tip,
    fetch_messages,
    pack_told,
    size_bytes,
    unpack,
    want_messages,
)
from protocols.told import Offer
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
        self._server = public_key_of(peer_id)
        self._came_from = came_from
        self._follow = follow
        self._side = Side.puller()
        self._offer = Offer()
        self._asks: deque[Ask] = deque()
        self._fetches: deque[Fetch] = deque()
        self._asked: Ask | Fetch | None = None
        """What we wait for an answer to: one question at a time, whatever the server lists."""
        self._server_hears = False
        self._told: set[CID] = set()
        self._told_at = 0, 0
        """Which redactions ``_told`` tells of, by ``Redactions.changes``, and of how many feeds."""
        self._tells_left = MAX_TOLD_BUNDLES
        self._held = {self._server}
        """Feeds of which the server has something: a submitter keeps its workers' bundles."""
        self._stirred = trio.Event()
        self._is_over = False
        self.has_caught_up = False
        """Whether the server has sent all that we lacked when we asked."""
        self.pace = Pace()
        """Whoever pulls from many peers sets the one that all of its pullers share."""
        self.left_out = trio.Event()
        """Set when bundles came too soon after others of their author: they must be pulled anew."""

    async def run(self) -> None:
        """Pull until the server ends the stream; raises what ended it otherwise, in a group."""
        stream = await self._transport.open_stream(self._peer_id, PROTOCOL)
        try:
            for want in want_messages(self._feeds.chains, follow=self._follow):
                await send(stream, [want])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reply, stream)
                while (messages := await self._receive(stream)) is not None:
                    await self._take(messages)
                    self._stirred.set()
                self._is_over = True
                self._stirred.set()
            await stream.finish()  # both ends have: the server sees that nothing was cut off
        finally:
            await stream.aclose()

    async def _receive(self, stream: Stream) -> list[Message] | None:
        with trio.fail_after(PULL_SILENCE_S):
            payload = await stream.receive()
        return None if payload is None else self._side.receive(payload)

    async def _reply(self, stream: Stream) -> None:
        """Say what there is to say, beside the reading.

        A server that is busy sending might read nothing, and both would wait for ever.
        """
        while True:
            self._stirred = trio.Event()
            for message in (*self._acks(), *self._tells(), *self._questions()):
                await send(stream, [message])
            if self._is_over:
                return
            await self._stirred.wait()

    def _questions(self) -> Iterator[Ask | Fetch]:
        if self._asked is None and (waiting := self._fetches or self._asks) and not self._is_over:
            self._asked = waiting.popleft()
            yield self._asked

    def _tells(self) -> Iterator[Tell]:
        """Tell the server which records of the feeds that it has others had erased, and what we
        vouch for of its own: it pulls from nobody.
        """
        if self._server_hears:
            for bundle in islice(self._to_tell(), self._tells_left):
                self._tells_left -= 1
                yield pack_told(bundle)

    def _to_tell(self) -> Iterator[bytes]:
        yield from self._feeds.vouched_about(self._server, self._told)
        state = self._feeds.bodies.redactions.changes, len(self._held)
        if state != self._told_at:  # 20 ms of 10,000, and each frame asks
            self._told_at = state
            for feed in sorted(self._held):
                yield from self._feeds.about_redactions_of(feed, self._server, self._told)

    async def _take(self, messages: list[Message]) -> None:
        """Take in one frame."""
        await self._add([m for m in messages if isinstance(m, BundleMessage)])
        for message in messages:
            if isinstance(message, Refuse):
                raise Refused(message.reason, code=message.code)
            if isinstance(message, Have):
                self._offer.have(message)
                self._held.update(each.feed for each in message.held)
                self._server_hears = message.hears
            elif isinstance(message, Inventory):
                self._take_list(message)
            elif isinstance(message, Tip):
                self._take_tip()

    def _take_tip(self) -> None:
        self.has_caught_up = True
        self._offer.caught_up()
        self._feeds.note_gone(self._server, self._offer.gone)
        self._asks += [Ask(*key) for key in self._offer.doubts(self._feeds.chains)]
        if isinstance(self._asked, Fetch):
            self._asked = None

    def _take_list(self, inventory: Inventory) -> None:
        if self._asked != Ask(inventory.feed, inventory.epoch):
            raise RemoteProtocolError("a server lists what nobody asked for", code="out-of-turn")
        lacking = self._lacking(inventory)
        # What is too much is left for the next stream, which asks again.
        self._fetches += islice(lacking, MAX_FETCHES - len(self._fetches))
        if not inventory.more:
            self._asked = None

    async def _add(self, messages: list[BundleMessage]) -> None:
        """Verify and keep what is new; everything in ``messages`` is on the disk afterwards."""
        if sum(map(size_bytes, messages)) > BUNDLES_PER_FRAME_BYTES + MAX_BUNDLE_BYTES:
            raise RemoteProtocolError("a frame's bundles are larger than a frame may be")
        opened: dict[CID, UnverifiedBundle] = {}
        fresh: list[Bundle] = []
        for message in messages:
            bundle = UnverifiedBundle.open(unpack(message))
            if bundle.cid in opened:
                continue
            if not self._feeds.wants(bundle):
                opened[bundle.cid] = bundle
            elif await self._may_look_into(bundle, fresh):
                opened[bundle.cid] = bundle
                fresh.append(bundle.verify())
                await trio.lowlevel.checkpoint()  # a millisecond each; others wait for this thread
        self._came_from.update(opened)
        self._held.update(each.header.feed for each in opened.values())
        await self._feeds.add_all(fresh)
        if self.has_caught_up:
            for bundle in opened.values():
                self._offer.fresh(_key(bundle), Link.of(bundle.header, bundle.cid.digest, 0))

    async def _may_look_into(self, bundle: UnverifiedBundle, fresh: list[Bundle]) -> bool:
        """Wait until it is this author's turn; on a relay's stream that we follow, say no instead,
        since it carries other authors' bundles, too.

        What is in ``fresh`` does not wait along.
        """
        author = bundle.header.feed
        wait_s = self.pace.wait_s(author, trio.current_time())
        if wait_s and self._follow and author != self._server:
            self.pace.left_out += 1
            self.left_out.set()
            return False
        if wait_s:
            await self._feeds.add_all(fresh)
            fresh.clear()
            self.pace.waited_s += wait_s
            await trio.sleep(wait_s)
        self.pace.take(author, len(bundle.header.digests), trio.current_time())
        return True

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
