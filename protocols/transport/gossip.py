"""Hints by GossipSub 1.1: py-libp2p's implementation, kept in a cage.

The cage: it learns of a peer only on admission and can open streams to no other; it never dials;
every task that it starts and every validator that it calls is guarded, for in py-libp2p 0.8.1 one
exception there ends the process; we publish at most ``MAX_GOSSIP_PER_S`` messages a second and take
at most ``MAX_GOSSIP_IN_PER_S`` from one peer. Its own spam, adaptive and eclipse options are off:
the first throttles our own messages, the others need more networks than a mesh has.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.crypto.keys import KeyPair, PrivateKey, PublicKey
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from protocols.errors import TransportError
from protocols.keys import PeerId
from protocols.limits import MAX_GOSSIP_BYTES, MAX_GOSSIP_IN_PER_S, MAX_GOSSIP_PER_S
from protocols.transport import GossipHandler, GossipValidator
from protocols.transport.muxed_stream import MuxedStream
from protocols.transport.rate import RateLimiter

log = logging.getLogger(__name__)

GOSSIP_PROTOCOL: Final = "/meshsub/1.1.0"
_HEARTBEAT_S: Final = 1  # py-libp2p's default is two minutes
_RESTART_S: Final = 1.0
_MAX_RPC_BYTES: Final = 4 * MAX_GOSSIP_BYTES  # several messages and control in one

OpenMuxed = Callable[[PeerId, str], Awaitable[MuxedStream]]


class Gossip:
    """Topics, with validators that can't raise and our own limits."""

    def __init__(
        self, keys: KeyPair, open_muxed: OpenMuxed, is_admitted: Callable[[PeerId], bool]
    ) -> None:
        self._host = _CagedHost(keys, open_muxed, is_admitted)
        self._topics: dict[str, tuple[GossipValidator, GossipHandler]] = {}
        self._limiter = RateLimiter(MAX_GOSSIP_PER_S)
        self._pubsub: _Pubsub | None = None

    def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        """Take part in a topic from the start of ``run``."""
        self._topics[topic] = (validator, handler)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled."""
        router = _router()
        self._pubsub = pubsub = _Pubsub(self._host, router)
        try:
            async with trio.open_nursery() as nursery:
                tasks = Tasks(nursery)
                pubsub._manager = router._manager = tasks  # pyright: ignore[reportAttributeAccessIssue] - what they use of a manager
                nursery.start_soon(pubsub.run)
                nursery.start_soon(router.run)
                for topic in self._topics:
                    pubsub.set_topic_validator(topic, self._validate, is_async_validator=False)
                    await pubsub.subscribe(topic)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    tasks.is_running = False  # before it closes: streams end later
        finally:
            pubsub.seen_messages.stop()  # it has a thread of its own

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Hand out a message; False when the size cap or the limiter drops it."""
        await trio.lowlevel.checkpoint()
        if len(payload) > MAX_GOSSIP_BYTES or not self._limiter.take(trio.current_time()):
            return False
        if self._pubsub is None:
            return False
        await self._pubsub.publish(topic, payload)
        return True

    async def serve(self, muxed: MuxedStream) -> None:
        """Read an admitted peer's messages until it hangs up."""
        if self._pubsub is not None:
            await self._pubsub.stream_handler(GossipStream(muxed, ID.from_base58(muxed.peer_id)))

    def on_admission(self, peer_id: PeerId, is_admitted: bool) -> None:
        """Take in an admitted peer, or let go of it."""
        if self._pubsub is None:
            return
        libp2p_id = ID.from_base58(peer_id)
        if is_admitted:
            self._pubsub.manager.run_task(self._pubsub._handle_new_peer_with_retry, libp2p_id)
        else:
            self._pubsub.forget(libp2p_id)

    def _validate(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Whether to take and pass on a message; hands it to its handler, for GossipSub asks once a
        message. Never raises.
        """
        own = self._host.get_id()
        if forwarder == own:
            return True
        if message.from_id == own.to_bytes() or len(message.data) > MAX_GOSSIP_BYTES:
            return False
        peer_id = forwarder.to_base58()
        return all(self._take(topic, peer_id, message.data) for topic in message.topicIDs)

    def _take(self, topic: str, peer_id: PeerId, payload: bytes) -> bool:
        validator, handler = self._topics.get(topic, (None, None))
        if validator is None or handler is None:
            return False
        try:
            is_valid = validator(peer_id, payload)
            if is_valid:
                handler(peer_id, payload)
        except Exception:  # an exception in a validator ends py-libp2p's process
            log.exception("gossip refused", extra={"peer": peer_id, "topic": topic})
            return False
        return is_valid


class Tasks:
    """What GossipSub uses of py-libp2p's service manager, but no exception leaves a task, and none
    is begun once ``is_running`` was made false.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.is_running = True
        self._nursery = nursery

    def run_task(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run it; what goes wrong is logged."""
        if self.is_running:
            self._nursery.start_soon(self._guard, function, args)

    def run_daemon_task(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run it for ever, again after an exception."""
        if self.is_running:
            self._nursery.start_soon(self._keep_running, function, args)

    async def wait_finished(self) -> None:
        """Wait to be cancelled."""
        await trio.sleep_forever()

    async def _guard(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception:  # a boundary: code that isn't ours acts on a peer's bytes
            log.exception("gossip task failed")

    async def _keep_running(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        while True:
            await self._guard(function, args)
            await trio.sleep(_RESTART_S)


def _router() -> GossipSub:
    return _GossipSub(
        protocols=[GOSSIP_PROTOCOL],  # pyright: ignore[reportArgumentType] - a NewType of str
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=_HEARTBEAT_S,
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
    )


class _GossipSub(GossipSub):
    async def _do_px(self, px_peers: list[Any]) -> None:
        """Ignore peer exchange: with do_px=False py-libp2p still dials whoever a PRUNE names."""

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        """Remember no message for this: 1,000 of them are 64 MiB, and (author, seqno) is its id
        anyway.
        """
        return True

    def _periodic_security_cleanup(self) -> None:
        """Drop as well what only the adaptive option uses and trims."""
        super()._periodic_security_cleanup()
        self.recent_message_deliveries.clear()


class _Pubsub(Pubsub):
    def __init__(self, host: _CagedHost, router: GossipSub) -> None:
        super().__init__(host, router, max_inbound_rpc_size=_MAX_RPC_BYTES)  # pyright: ignore[reportArgumentType] - the part of a host that it uses
        self._limiters: dict[ID, RateLimiter] = {}

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message, unless its forwarder sends too many: before any signature is checked."""
        limiter = self._limiters.setdefault(msg_forwarder, RateLimiter(MAX_GOSSIP_IN_PER_S))
        if msg_forwarder == self.my_id or limiter.take(trio.current_time()):
            await super().push_msg(msg_forwarder, msg)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Do nothing: messages were handed over at validation, without its queue of 32 that drops
        silently.
        """

    def forget(self, peer_id: ID) -> None:
        """Drop a peer whose last connection has ended."""
        self._limiters.pop(peer_id, None)
        self._handle_dead_peer(peer_id)


class _PeerStore(PeerStore):
    def consume_peer_record(self, envelope: Any, ttl: float) -> bool:
        """Keep nothing: addresses travel in adverts."""
        return True


class _Connection:
    """Stands for a live connection in GossipSub's eyes."""

    muxed_conn = None


class _CagedHost:
    """What GossipSub uses of a host and its network; it can reach admitted peers only."""

    def __init__(
        self, keys: KeyPair, open_muxed: OpenMuxed, is_admitted: Callable[[PeerId], bool]
    ) -> None:
        self._peerstore = _PeerStore()
        self._keys = keys
        self._id = ID.from_pubkey(keys.public_key)
        self._open_muxed = open_muxed
        self._is_admitted = is_admitted

    def get_id(self) -> ID:
        return self._id

    def get_public_key(self) -> PublicKey:
        return self._keys.public_key

    def get_private_key(self) -> PrivateKey:
        return self._keys.private_key

    def get_peerstore(self) -> PeerStore:
        return self._peerstore

    def get_addrs(self) -> list[Any]:
        """Return nothing: addresses travel in adverts, signed and with an expiry."""
        return []

    def get_network(self) -> _CagedHost:
        return self

    def get_connections(self, peer_id: ID) -> list[_Connection]:
        return [_Connection()] if self._is_admitted(peer_id.to_base58()) else []

    def register_notifee(self, notifee: Any) -> None:
        """Ignore it: peers are told of on admission, not on connection."""

    def set_stream_handler(self, protocol: str, handler: Any) -> None:
        """Ignore it: the transport serves the protocol itself, to admitted peers."""

    async def new_stream(self, peer_id: ID, protocols: tuple[str, ...]) -> GossipStream:
        """Open a stream; at SwarmException GossipSub tries again while the peer is admitted."""
        name = peer_id.to_base58()
        if not self._is_admitted(name):
            raise SwarmException(f"{name} is not admitted")
        try:
            return GossipStream(await self._open_muxed(name, GOSSIP_PROTOCOL), peer_id)
        except TransportError as error:
            raise SwarmException(str(error)) from error


class _MuxedConnection:
    def __init__(self, peer_id: ID) -> None:
        self.peer_id = peer_id


class GossipStream(INetStream):
    """A muxed stream as GossipSub wants it, with py-libp2p's errors."""

    metric_send_channel = None

    def __init__(self, muxed: MuxedStream, peer_id: ID) -> None:
        self.muxed_conn = _MuxedConnection(peer_id)  # pyright: ignore[reportAttributeAccessIssue] - the part of a connection that it uses
        self._muxed = muxed

    async def read(self, n: int | None = None) -> bytes:
        """Return 1 to ``n`` bytes."""
        try:
            received = await self._muxed.read(n or _MAX_RPC_BYTES)
        except TransportError as error:
            raise StreamReset from error
        if not received:
            raise StreamEOF
        return received

    async def write(self, data: bytes) -> None:
        """Send everything."""
        try:
            await self._muxed.write(data)
        except TransportError as error:
            raise StreamReset from error

    async def close(self) -> None:
        """Half-close."""
        self._muxed.finish()

    async def reset(self) -> None:
        """End both directions."""
        await self._muxed.reset()

    def get_protocol(self) -> Any:
        """Return what was agreed on; there is only one."""
        return GOSSIP_PROTOCOL

    def set_protocol(self, protocol_id: Any) -> None:
        """Ignore it."""

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return nothing: it is for peer scores, which are off."""
        return None
