"""The answering side of ``/covey/feed/1``: one stream on which somebody pulls our feeds."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from peer.feeds import Feeds
from peer.finder import Finder
from peer.journal import JournalFullError
from protocols.ack import SignedAck
from protocols.chain import Chain, Link, Range
from protocols.cid import CID
from protocols.errors import Refused, RemoteProtocolError
from protocols.feed import UnverifiedBundle
from protocols.keys import PeerId, public_key_of
from protocols.limits import (
    BUNDLES_PER_FRAME_BYTES,
    MAX_QUESTIONS,
    MAX_TOLD_BUNDLES,
    RECENT_SOURCES,
    SEND_WITHIN_S,
    TIP_EVERY_S,
)
from protocols.sync import (
    Ack,
    Ask,
    FeedEpoch,
    Fetch,
    Message,
    Refuse,
    Seek,
    Side,
    State,
    Tell,
    Tip,
    Want,
    encode,
    have_messages,
    inventory_messages,
    pack,
    unpack,
)
from protocols.told import Wanted
from protocols.tombstone import mentions_redaction
from protocols.transport import Stream

log = logging.getLogger(__name__)

NO_READER: Final = Refuse("not-allowed", "reading feeds takes the role aggregator or observer")
NO_SEEKER: Final = Refuse(
    "not-allowed", "asking for records takes the role aggregator, observer or submitter"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What this peer does with its feeds; chosen once in ``daemon.py``."""

    may_pull: Callable[[PeerId], bool]
    """Whether a peer's certificate lets it read our feeds: the roles aggregator and observer."""
    may_acknowledge: Callable[[PeerId], bool]
    """Whether a peer's word lets us drop records: the role aggregator."""
    may_seek: Callable[[PeerId], bool]
    """Whether a peer may ask for records whose names it was told: the role submitter, too."""
    shares: bool = True
    """Without it we look like a peer that holds nothing. Nothing is lost: once it is on, everything
    since the beginning is what the others lack."""
    follows: bool = False
    """Whether we pull from every peer and acknowledge."""


class Recent:
    """The bundles that a peer itself brought lately: it need not get them back."""

    def __init__(self) -> None:
        self._cids: OrderedDict[CID, None] = OrderedDict()

    def __contains__(self, cid: object) -> bool:
        return cid in self._cids

    def update(self, cids: Iterable[CID]) -> None:
        """Remember ``cids`` and forget the oldest."""
        self._cids.update(dict.fromkeys(cids))
        while len(self._cids) > RECENT_SOURCES:
            self._cids.popitem(last=False)


class FeedServer:
    """One stream on which we are asked."""

    def __init__(
        self, stream: Stream, feeds: Feeds, policy: Policy, came_from: Recent, finder: Finder
    ) -> None:
        self._stream = stream
        self._finder = finder
        self._feeds = feeds
        self._policy = policy
        self._came_from = came_from
        self._side = Side.server()
        self._sending = trio.Lock()
        self._told = 0
        self._promised: dict[int, Range] = {}
        """What was acknowledged on this stream of our own feed, by epoch that we hold."""
        self._early: list[Message] = []
        """What stood in one frame with the puller's first words."""
        self._seek: Seek | None = None

    async def run(self) -> None:
        """Answer until the puller ends the stream; raises what ended it otherwise, in a group."""
        wanted = await self._receive_wants()
        if self._seek is not None:
            await self._answer_seek(self._seek)
            return
        if not self._policy.may_pull(self._stream.peer_id):
            await refuse(self._stream, NO_READER)
            return
        if self._policy.shares:
            await self._cut()
        async with trio.open_nursery() as nursery:
            ask, asked = trio.open_memory_channel[Ask | Fetch](MAX_QUESTIONS)
            nursery.start_soon(self._answer, wanted)
            nursery.start_soon(self._answer_questions, asked)
            await self._listen(ask)
            nursery.cancel_scope.cancel()

    @property
    def _shared(self) -> Mapping[FeedEpoch, Chain]:
        return self._feeds.chains if self._policy.shares else {}

    async def _cut(self) -> None:
        self._feeds.allow_cutting()  # who may pull has said hello, and with it where it saw us
        try:
            await self._feeds.cut_all()
        except JournalFullError as error:
            # What was cut before can be read all the same.
            log.warning("serving without the latest records", extra={"code": error.code})

    async def _receive_wants(self) -> Wanted:
        wanted = Wanted()
        with trio.fail_after(SEND_WITHIN_S):
            while self._side.state is State.AWAITING_WANT:
                payload = await self._stream.receive()
                if payload is None:
                    raise RemoteProtocolError("a puller ended before it said what it wants")
                for message in self._side.receive(payload):
                    if isinstance(message, Want):
                        wanted.want(message)
                    elif isinstance(message, Seek):
                        self._seek = message
                    else:
                        self._early.append(message)
        return wanted

    async def _answer_seek(self, seek: Seek) -> None:
        """Send the bundles that hold the records that were asked for, and the end."""
        peer_id = self._stream.peer_id
        if not self._policy.may_seek(peer_id):
            await refuse(self._stream, NO_SEEKER)
            return
        try:
            shared = self._policy.shares
            bundles = await self._finder.bundles(peer_id, seek.records) if shared else []
        except Refused as refusal:
            await refuse(self._stream, Refuse(refusal.code, refusal.message))
            return
        await self._send_bundles(bundles)
        await self._send([Tip()])
        await drain(self._stream)

    async def _answer(self, wanted: Wanted) -> None:
        """Send what the puller lacks, then what comes, until it has had enough."""
        chains = self._shared
        # One moment: what is in the chains now is sent from them, and all that comes later from
        # there.
        offset = self._feeds.journal_end
        haves = list(have_messages(chains))
        lacking = [
            link
            for key in sorted(chains)
            for link in chains[key].outside(wanted.ranges.get(key, ()))
        ]
        for have in haves:
            await self._send([have])
        await self._send_bundles(self._read(lacking))
        await self._send([Tip()])
        if not wanted.follow:
            await self._stream.finish()  # the puller ends the stream when it has read this far
        elif self._policy.shares:
            await self._send_arrivals(offset)
        else:
            await self._send_tips()

    async def _send_arrivals(self, offset: int) -> None:
        """Send what reaches our disk from ``offset`` on; a tip when nothing has for a while."""
        seen = 0
        while True:
            fresh: list[bytes] = []
            for arrival in self._feeds.arrivals(offset):
                offset = arrival.end_offset
                if arrival.bundle is not None and arrival.cid not in self._came_from:
                    fresh.append(arrival.bundle)
                if sum(map(len, fresh)) >= BUNDLES_PER_FRAME_BYTES:
                    break
            if fresh:
                await self._send_bundles(fresh)
            else:
                seen = await self._wait_changed(seen)

    async def _wait_changed(self, seen: int) -> int:
        with trio.move_on_after(TIP_EVERY_S):
            return await self._feeds.wait_changed(seen)
        await self._send([Tip()])
        return seen

    async def _send_tips(self) -> None:
        while True:
            await trio.sleep(TIP_EVERY_S)
            await self._send([Tip()])

    async def _listen(self, ask: trio.MemorySendChannel[Ask | Fetch]) -> None:
        """Take acknowledgements and questions until the puller ends the stream.

        Never sends: a puller that is busy sending reads nothing, and both would wait for ever.
        """
        messages = self._early
        while True:
            for message in messages:
                if isinstance(message, Ack):
                    await self._take_ack(message)
                elif isinstance(message, Tell):
                    await self._take_told(message)
                elif isinstance(message, Ask | Fetch):
                    _put(ask, message)
            payload = await self._stream.receive()
            if payload is None:
                return
            messages = self._side.receive(payload)

    async def _answer_questions(self, asked: trio.MemoryReceiveChannel[Ask | Fetch]) -> None:
        async for question in asked:
            if isinstance(question, Ask):
                await self._list(question)
            else:
                await self._send_bundles(self._read(self._find(question)))
                await self._send([Tip()])

    async def _take_ack(self, message: Ack) -> None:
        peer_id = self._stream.peer_id
        ack = SignedAck.verified(message.payload, message.signature, public_key_of(peer_id))
        if self._policy.may_acknowledge(peer_id):
            await self._feeds.acknowledge(ack)
            for entry in ack.content.feeds:
                is_own = entry.feed == self._feeds.key.public
                if is_own and (entry.feed, entry.epoch) in self._feeds.chains:
                    self._promised[entry.epoch] = entry.first_sequence, entry.next_sequence

    async def _take_told(self, message: Tell) -> None:
        """Keep what an aggregator tells of tombstones for our records; whether they count is seen
        from them. What it vouches for is only looked at.
        """
        self._told += 1
        if self._told > MAX_TOLD_BUNDLES:
            raise RemoteProtocolError(
                f"a puller tells of more than {MAX_TOLD_BUNDLES} bundles", code="too-many"
            )
        peer_id, told = self._stream.peer_id, UnverifiedBundle.open(unpack(message))
        is_own_word = told.header.feed == public_key_of(peer_id)
        is_wanted = self._feeds.wants(told)
        if not self._policy.may_acknowledge(peer_id) or not (is_wanted or is_own_word):
            return
        bundle = told.verify()
        if is_wanted and mentions_redaction(b"".join(bundle.records)):
            self._came_from.update([bundle.cid])
            await self._feeds.add(bundle)
        if is_own_word:
            await self._feeds.witness(bundle, dict(self._promised))

    async def _list(self, ask: Ask) -> None:
        chain = self._chain((ask.feed, ask.epoch))
        for inventory in inventory_messages((ask.feed, ask.epoch), chain):
            await self._send([inventory])

    def _find(self, fetch: Fetch) -> Iterator[Link]:
        wanted = set(fetch.bundles)
        for link in self._chain((fetch.feed, fetch.epoch)):
            if (link.first_sequence, link.digest) in wanted:
                yield link

    def _chain(self, key: FeedEpoch) -> list[Link]:
        return list(self._shared.get(key, ()))

    def _read(self, links: Iterable[Link]) -> Iterator[bytes]:
        for link in links:
            bundle = self._feeds.read(link)
            if bundle is not None:
                yield bundle

    async def _send_bundles(self, bundles: Iterable[bytes]) -> None:
        """Send bundles, many a frame; read and compressed only when it is their turn."""
        frame: list[Message] = []
        size = 0
        for bundle in bundles:
            frame.append(pack(bundle))
            size += len(bundle)
            if size >= BUNDLES_PER_FRAME_BYTES:
                await self._send(frame)
                frame, size = [], 0
        if frame:
            await self._send(frame)

    async def _send(self, messages: list[Message]) -> None:
        async with self._sending:
            await send(self._stream, messages)


def _put(ask: trio.MemorySendChannel[Ask | Fetch], question: Ask | Fetch) -> None:
    try:
        ask.send_nowait(question)
    except trio.WouldBlock:
        raise RemoteProtocolError(
            f"more than {MAX_QUESTIONS} questions wait for an answer", code="too-many-questions"
        ) from None


async def send(stream: Stream, messages: list[Message]) -> None:
    """Send one frame; raises ``trio.TooSlowError`` when the other side does not take it."""
    with trio.fail_after(SEND_WITHIN_S):
        await stream.send(encode(messages))


async def refuse(stream: Stream, refusal: Refuse) -> None:
    """Say no, and leave the stream open until the other side has heard it."""
    await send(stream, [refusal])
    await drain(stream)


async def drain(stream: Stream) -> None:
    """Say that nothing follows, and wait until the other side has read that far."""
    await stream.finish()
    with trio.move_on_after(SEND_WITHIN_S):
        while await stream.receive() is not None:
            pass
