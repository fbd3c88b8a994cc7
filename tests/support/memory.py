"""A network in memory with the contract of ``protocols.transport`` and faults on demand.

It passes the same contract test as libp2p. Everything takes trio's time, so ``autojump_clock``
makes its time-outs free. The only randomness (delay, gossip loss) comes from the seed. Faults:
``partition``, ``freeze`` (as SIGSTOP does), ``reset`` (as kill -9 does), also in mid-content.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from protocols.errors import (
    LocalProtocolError,
    PeerUnreachableError,
    StreamLostError,
    TransportError,
)
from protocols.keys import PeerId, SigningKey
from protocols.limits import (
    ADMISSION_WAIT_S,
    DIAL_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_GOSSIP_BYTES,
    MAX_GOSSIP_PER_S,
    MAX_STREAMS_BEFORE_HELLO,
    MAX_STREAMS_PER_PEER,
    OPEN_STREAM_TIMEOUT_S,
    PEER_SILENCE_S,
)
from protocols.transport import (
    ConnectionCallback,
    GossipHandler,
    GossipValidator,
    StreamHandler,
)
from protocols.transport.rate import RateLimiter
from tests.support.memory_stream import MemoryStream, Signal, stream_pair

log = logging.getLogger(__name__)


@dataclass
class MemoryNetwork:
    """Where memory transports meet; ``delay_s`` is (least, most) one way, ``gossip_loss`` a
    probability.
    """

    seed: int = 0
    delay_s: tuple[float, float] = (0.0, 0.0)
    gossip_loss: float = 0.0
    transports: dict[str, MemoryTransport] = field(default_factory=dict[str, "MemoryTransport"])

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.changed = Signal()
        self._cut: set[frozenset[PeerId]] = set()
        self._frozen: set[PeerId] = set()
        self._breaks: dict[tuple[PeerId, PeerId], int] = {}
        self.sent_bytes: Counter[tuple[PeerId, PeerId]] = Counter()
        """What each peer has handed over to each other one, as (from, to)."""
        self._next_port = 20_000

    def transport(self, key: SigningKey) -> MemoryTransport:
        """Return a transport of this identity; it joins the network when it runs."""
        self._next_port += 1
        return MemoryTransport(self, key.peer_id, f"/ip4/127.0.0.1/tcp/{self._next_port}")

    def delay(self) -> float:
        """Return the time that one message takes one way."""
        return self.rng.uniform(*self.delay_s)

    def partition(self, one: PeerId, other: PeerId) -> None:
        """Let nothing through between two peers, silently, until ``heal``."""
        self._set_faults(lambda: self._cut.add(frozenset((one, other))))

    def heal(self, one: PeerId, other: PeerId) -> None:
        """Undo ``partition``; connections that outlived it go on."""
        self._set_faults(lambda: self._cut.discard(frozenset((one, other))))

    def freeze(self, peer: PeerId) -> None:
        """Let nothing in or out of this peer, silently, until ``thaw``."""
        self._set_faults(lambda: self._frozen.add(peer))

    def thaw(self, peer: PeerId) -> None:
        """Undo ``freeze``."""
        self._set_faults(lambda: self._frozen.discard(peer))

    def reset(self, one: PeerId, other: PeerId) -> None:
        """Break their connection now, losing what is under way; they may dial again at once."""
        for link in list(self.links_between(one, other)):
            link.drop()

    def reset_after(self, sender: PeerId, receiver: PeerId, size_bytes: int) -> None:
        """Break their connection as ``reset`` does, when the sender has handed over so much."""
        self._breaks[sender, receiver] = size_bytes

    def count(self, sender: PeerId, receiver: PeerId, size_bytes: int) -> None:
        """A frame was handed over."""
        pair = (sender, receiver)
        self.sent_bytes[pair] += size_bytes
        if self.sent_bytes[pair] >= self._breaks.get(pair, self.sent_bytes[pair] + 1):
            del self._breaks[pair]
            self.reset(*pair)

    def is_blocked(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition or a freeze is between two peers."""
        return bool({one, other} & self._frozen) or frozenset((one, other)) in self._cut

    def links_between(self, one: PeerId, other: PeerId) -> Iterator[Link]:
        """Yield the live connection of two peers, if there is one."""
        for transport in self.transports.values():
            if transport.peer_id == one and (link := transport.links.get(other)):
                yield link

    def _set_faults(self, change: Callable[[], None]) -> None:
        change()
        self.changed.fire()
        for transport in self.transports.values():
            for link in transport.links.values():
                link.wake()


class Link:
    """One connection of two transports."""

    def __init__(
        self, network: MemoryNetwork, one: MemoryTransport, other: MemoryTransport
    ) -> None:
        self.network = network
        self.ends = (one, other)
        self.is_up = True
        self.streams: set[MemoryStream] = set()

    @property
    def is_blocked(self) -> bool:
        return self.network.is_blocked(self.ends[0].peer_id, self.ends[1].peer_id)

    def other(self, end: MemoryTransport) -> MemoryTransport:
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def wake(self) -> None:
        for stream in list(self.streams):
            stream.wake()

    def drop(self) -> None:
        """End the connection on both sides; what is under way is lost."""
        if not self.is_up:
            return
        self.is_up = False
        for stream in list(self.streams):
            stream.lose()
        self.streams.clear()
        for end in self.ends:
            end.forget(self.other(end).peer_id, self)


class MemoryTransport:
    """The in-memory twin of the libp2p transport."""

    def __init__(self, network: MemoryNetwork, peer_id: PeerId, address: str) -> None:
        self.peer_id = peer_id
        self.addresses = [address]
        self.links: dict[PeerId, Link] = {}
        """The latest connection with each peer."""
        self._all_links: dict[PeerId, list[Link]] = {}
        self._network = network
        self._nursery: trio.Nursery | None = None
        self._handlers: dict[str, tuple[StreamHandler, bool]] = {}
        self._admitted: set[PeerId] = set()
        self._admission = Signal()
        self._callbacks: list[ConnectionCallback] = []
        self._topics: dict[str, tuple[GossipValidator, GossipHandler]] = {}
        self._seen: set[bytes] = set()
        self._limiter = RateLimiter(MAX_GOSSIP_PER_S)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            self._network.transports[self.addresses[0]] = self
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:  # before the nursery closes, in which others start what they send us
                self._network.transports.pop(self.addresses[0], None)
                for link in [each for links in self._all_links.values() for each in links]:
                    link.drop()

    async def dial(self, peer_id: PeerId, addresses: list[str]) -> None:
        await trio.lowlevel.checkpoint()
        attempts: dict[str, str] = {}
        for address in addresses:
            if peer_id in self.links:
                return
            reason = await self._try(peer_id, address)
            if reason is None:
                return
            attempts[address] = reason
        if peer_id not in self.links:
            raise PeerUnreachableError(
                f"no address of {peer_id} answered", peer=peer_id, attempts=attempts
            )

    async def _try(self, peer_id: PeerId, address: str) -> str | None:
        """Connect to one address; return why not."""
        other = self._network.transports.get(address)
        if other is None:
            return "connection refused"
        if self._network.is_blocked(self.peer_id, other.peer_id):
            await trio.sleep(DIAL_TIMEOUT_S)
            return "timed out"
        await trio.sleep(2 * self._network.delay())
        if other.peer_id != peer_id:
            return f"is {other.peer_id}"
        if len(other.links) >= MAX_CONNECTIONS:
            return "connection closed"
        if peer_id not in self.links:
            self._connect(other)
        return None

    def _connect(self, other: MemoryTransport) -> None:
        link = Link(self._network, self, other)
        for end in link.ends:
            end.learn(link)

    def learn(self, link: Link) -> None:
        """Take in a new connection."""
        assert self._nursery is not None, "a transport connects only while it runs"
        peer = link.other(self).peer_id
        self.links[peer] = link
        links = self._all_links.setdefault(peer, [])
        links.append(link)
        self._nursery.start_soon(self._watch, link)
        if len(links) == 1:
            self._notify(peer, True)

    def forget(self, peer_id: PeerId, link: Link) -> None:
        """Take in the end of a connection; the peer is gone with its last one."""
        links = self._all_links.get(peer_id, [])
        if link not in links:
            return
        links.remove(link)
        if links:
            self.links[peer_id] = links[-1]
            return
        del self._all_links[peer_id], self.links[peer_id]
        self._admitted.discard(peer_id)
        self._notify(peer_id, False)

    def _notify(self, peer_id: PeerId, is_up: bool) -> None:
        for callback in self._callbacks:
            callback(peer_id, is_up)

    async def _watch(self, link: Link) -> None:
        """Drop a connection that nothing passes for ``PEER_SILENCE_S``."""
        while link.is_up:
            if not link.is_blocked:
                await self._network.changed.wait()
                continue
            with trio.move_on_after(PEER_SILENCE_S):
                while link.is_blocked:
                    await self._network.changed.wait()
                continue
            link.drop()

    async def open_stream(self, peer_id: PeerId, protocol: str) -> MemoryStream:
        link = self.links.get(peer_id)
        if link is None:
            raise PeerUnreachableError(f"there is no connection with {peer_id}", peer=peer_id)
        with trio.move_on_after(OPEN_STREAM_TIMEOUT_S):
            await trio.sleep(2 * self._network.delay())
            while link.is_blocked and link.is_up:
                await self._network.changed.wait()
            return await link.other(self).accept(link, protocol)
        raise StreamLostError(
            f"{peer_id} did not answer in {OPEN_STREAM_TIMEOUT_S} s", peer=peer_id
        )

    async def accept(self, link: Link, protocol: str) -> MemoryStream:
        """Start the handler of a stream that the other end opens; return the other end's side of
        it.
        """
        caller = link.other(self).peer_id
        handler, before_hello = self._handlers.get(protocol, (None, False))
        if handler is None or not (before_hello or await self._wait_admitted(caller)):
            raise TransportError(
                f"{self.peer_id} does not serve {protocol}",
                code="protocol-refused",
                peer=self.peer_id,
            )
        limit = MAX_STREAMS_PER_PEER if caller in self._admitted else MAX_STREAMS_BEFORE_HELLO
        if not link.is_up or sum(s.owner is self for s in link.streams) >= limit:
            raise StreamLostError(f"the stream to {self.peer_id} was reset", peer=self.peer_id)
        theirs, ours = stream_pair(link, link.other(self), self)
        assert self._nursery is not None, "a transport accepts only while it runs"
        self._nursery.start_soon(self._serve_stream, handler, ours)
        await trio.lowlevel.checkpoint()
        return theirs

    async def _wait_admitted(self, peer_id: PeerId) -> bool:
        with trio.move_on_after(ADMISSION_WAIT_S):
            while peer_id in self.links and peer_id not in self._admitted:
                await self._admission.wait()
        return peer_id in self._admitted

    async def _serve_stream(self, handler: StreamHandler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except Exception:  # the stream boundary: what one stream does wrong ends that stream only
            log.exception("stream handler failed", extra={"peer": stream.peer_id})
            await stream.reset()
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def serve(self, protocol: str, handler: StreamHandler, *, before_hello: bool = False) -> None:
        self._handlers[protocol] = (handler, before_hello)

    def admit(self, peer_id: PeerId) -> None:
        if peer_id in self.links:
            self._admitted.add(peer_id)
            self._admission.fire()

    def is_admitted(self, peer_id: PeerId) -> bool:
        return peer_id in self._admitted

    def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        if self._nursery is not None:
            raise LocalProtocolError("subscribe before the transport runs", topic=topic)
        self._topics[topic] = (validator, handler)

    async def publish(self, topic: str, payload: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if len(payload) > MAX_GOSSIP_BYTES or not self._limiter.take(trio.current_time()):
            return False
        self._seen.add(_message_id(topic, payload))
        self._spread(topic, payload, None)
        return True

    def _spread(self, topic: str, payload: bytes, origin: PeerId | None) -> None:
        for peer, link in list(self.links.items()):
            is_lost = link.is_blocked or self._network.rng.random() < self._network.gossip_loss
            if peer in self._admitted and peer != origin and not is_lost:
                other = link.other(self)
                assert other._nursery is not None, "a connected transport runs"
                other._nursery.start_soon(other._hear, self.peer_id, topic, payload)

    async def _hear(self, sender: PeerId, topic: str, payload: bytes) -> None:
        await trio.sleep(self._network.delay())
        name = _message_id(topic, payload)
        if sender not in self._admitted or topic not in self._topics or name in self._seen:
            return
        validator, handler = self._topics[topic]
        self._seen.add(name)
        try:
            if not validator(sender, payload):
                return
            handler(sender, payload)
        except Exception:  # the same boundary as in protocols.transport.gossip
            log.exception("gossip refused", extra={"peer": sender, "topic": topic})
            return
        self._spread(topic, payload, sender)

    def connected(self) -> set[PeerId]:
        return set(self.links)

    def on_connection(self, callback: ConnectionCallback) -> None:
        self._callbacks.append(callback)

    async def disconnect(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        for link in list(self._all_links.get(peer_id, ())):
            link.drop()


def _message_id(topic: str, payload: bytes) -> bytes:
    return hashlib.sha256(topic.encode() + b"\0" + payload).digest()
