"""The libp2p implementation of ``Transport``: TCP, Noise and yamux, with GossipSub for hints.

py-libp2p 0.8.1 gives us the Noise handshake, identities and GossipSub. Its host and swarm are not
used: they accept forged identities by default, end the process when a stream handler fails, dial
only one address of a peer and then refuse it for a minute, never release the slot of an inbound
connection, and close connections one after the other with pauses. What remains of them is small and
is here. Nothing is served that covey doesn't need: no identify, no ping service (the muxer pings),
no relay.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from protocols.errors import (
    LocalProtocolError,
    PeerUnreachableError,
    RemoteProtocolError,
    StreamLostError,
    TransportError,
)
from protocols.keys import PeerId, SigningKey
from protocols.limits import (
    DIAL_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_HANDSHAKES,
    OPEN_STREAM_TIMEOUT_S,
)
from protocols.transport import (
    ConnectionCallback,
    GossipHandler,
    GossipValidator,
    StreamHandler,
    negotiation,
    pinned,
)
from protocols.transport.addresses import TcpAddress
from protocols.transport.channel import RawChannel, SecureChannel
from protocols.transport.connections import Connections
from protocols.transport.gossip import GOSSIP_PROTOCOL, Gossip
from protocols.transport.muxed_stream import MuxedStream
from protocols.transport.muxer import Muxer
from protocols.transport.stream import FramedStream
from protocols.transport.upgrade import libp2p_keys, upgrade_inbound, upgrade_outbound

log = logging.getLogger(__name__)

pinned.check()
pinned.quieten()


@dataclass(frozen=True, slots=True)
class _Service:
    """What serves one protocol."""

    serve: Callable[[MuxedStream], Awaitable[None]]
    before_hello: bool


class Libp2pTransport:
    """A peer's place in a real network; see ``protocols.transport.Transport``."""

    def __init__(self, key: SigningKey, listen: list[str]) -> None:
        self.peer_id: PeerId = key.peer_id
        self.addresses = [str(TcpAddress.parse(address)) for address in listen]
        self._keys = libp2p_keys(key)
        self._connections = Connections()
        self._services: dict[str, _Service] = {}
        self._gossip = Gossip(self._keys, self._open_muxed, self._connections.is_admitted)
        self._connections.on_admission(self._gossip.on_admission)
        self._services[GOSSIP_PROTOCOL] = _Service(self._gossip.serve, before_hello=False)
        self._nursery: trio.Nursery | None = None
        self._is_stopping = False
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._handshakes = 0

    # -- life
    # ----------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled."""
        if self._nursery is not None:
            raise LocalProtocolError("a transport runs only once")
        listeners = await self._listen()
        try:
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self._gossip.run)
                self._nursery.start_soon(
                    partial(
                        trio.serve_listeners,
                        self._serve_socket,
                        listeners,
                        handler_nursery=self._nursery,
                    )
                )
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._is_stopping = True  # before it closes: whoever dials hears of it later
        finally:
            # Not by aclose, whose checkpoint would put Cancelled in the place of what went wrong.
            for listener in listeners:
                listener.socket.close()

    async def _listen(self) -> list[trio.SocketListener]:
        listeners: list[trio.SocketListener] = []
        bound: list[str] = []
        for text in self.addresses:
            address = TcpAddress.parse(text)
            try:
                opened = await trio.open_tcp_listeners(address.port, host=address.host)
            except OSError as error:
                for listener in listeners:
                    listener.socket.close()
                raise TransportError(
                    f"can't listen on {text}: {error.strerror or error}",
                    code="listen-failed",
                    hint="is another node running, or is the address not of this machine?",
                    address=text,
                ) from error
            listeners += opened
            bound += [str(TcpAddress(*li.socket.getsockname()[:2])) for li in opened]
        self.addresses[:] = bound
        return listeners

    async def _serve_socket(self, socket: trio.SocketStream) -> None:
        """Serve one inbound connection; whatever goes wrong with it ends it and nothing else."""
        raw = RawChannel(socket, is_initiator=False)
        try:
            upgraded = await self._upgrade_inbound(raw)
            if upgraded is not None:
                await self._run_connection(*upgraded, is_initiator=False)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            log.info("inbound connection failed", extra={"reason": repr(error)})
        finally:
            with trio.CancelScope(shield=True):
                await raw.aclose()

    async def _upgrade_inbound(self, raw: RawChannel) -> tuple[SecureChannel, PeerId] | None:
        """Do the handshakes, unless there are too many connections or handshakes already."""
        if self._handshakes >= MAX_HANDSHAKES or self._connections.total >= MAX_CONNECTIONS:
            log.warning("inbound connection refused", extra={"handshakes": self._handshakes})
            return None
        self._handshakes += 1
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                return await upgrade_inbound(raw, self._keys)
        finally:
            self._handshakes -= 1

    async def _run_connection(
        self,
        channel: SecureChannel,
        peer_id: PeerId,
        *,
        is_initiator: bool,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        muxer = Muxer(
            channel,
            peer_id,
            is_initiator=is_initiator,
            inbound_limit=partial(self._connections.stream_limit, peer_id),
            on_closed=self._connections.remove,
        )
        if not self._connections.add(muxer):
            await channel.aclose()
            raise TransportError(f"there are too many connections with {peer_id}", code="full")
        task_status.started()
        await muxer.run(self._on_stream)

    # -- dialling
    # ------------------------------------------------------------------------------------

    async def dial(self, peer_id: PeerId, addresses: list[str]) -> None:
        """Connect to exactly that peer: every address, one at a time."""
        lock = self._dialling.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                attempts = await self._try_each(peer_id, addresses)
        finally:
            if not lock.locked():
                self._dialling.pop(peer_id, None)
        if not self._connections.find(peer_id):
            raise PeerUnreachableError(
                f"no address of {peer_id} answered as that peer", peer=peer_id, attempts=attempts
            )

    async def _try_each(self, peer_id: PeerId, addresses: list[str]) -> dict[str, str]:
        """Try addresses until the peer is connected; return why the others failed."""
        attempts: dict[str, str] = {}
        for address in addresses:
            if self._connections.find(peer_id):
                break
            if reason := await self._try(peer_id, address):
                attempts[address] = reason
        return attempts

    async def _try(self, peer_id: PeerId, address: str) -> str | None:
        """Connect to one address; return why it failed."""
        try:
            target = TcpAddress.parse(address)
            if target.peer_id not in (None, peer_id):
                return f"is an address of {target.peer_id}"
            with trio.fail_after(DIAL_TIMEOUT_S):
                await self._connect(peer_id, target)
        except trio.TooSlowError:
            return f"no answer in {DIAL_TIMEOUT_S:g} s"
        except (OSError, TransportError, RemoteProtocolError) as error:
            return str(error)
        return None

    async def _connect(self, peer_id: PeerId, target: TcpAddress) -> None:
        if self._nursery is None:
            raise LocalProtocolError("a transport dials only while it runs")
        if self._connections.total >= MAX_CONNECTIONS:
            raise TransportError(f"there are {MAX_CONNECTIONS} connections already", code="full")
        raw = RawChannel(await trio.open_tcp_stream(target.host, target.port), is_initiator=True)
        try:
            channel = await upgrade_outbound(raw, self._keys, peer_id)
            if self._is_stopping:
                raise TransportError("this peer is stopping", code="not-running")
            await self._nursery.start(partial(self._run_outbound, channel, peer_id))
        except BaseException:
            with trio.CancelScope(shield=True):
                await raw.aclose()
            raise

    async def _run_outbound(
        self, channel: SecureChannel, peer_id: PeerId, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await self._run_connection(channel, peer_id, is_initiator=True, task_status=task_status)

    # -- streams
    # -------------------------------------------------------------------------------------

    async def open_stream(self, peer_id: PeerId, protocol: str) -> FramedStream:
        """Open a stream on a present connection."""
        return FramedStream(await self._open_muxed(peer_id, protocol))

    async def _open_muxed(self, peer_id: PeerId, protocol: str) -> MuxedStream:
        muxer = self._connections.find(peer_id)
        if muxer is None:
            raise PeerUnreachableError(f"there is no connection with {peer_id}", peer=peer_id)
        muxed = muxer.open()
        try:
            with trio.fail_after(OPEN_STREAM_TIMEOUT_S):
                is_accepted = await negotiation.propose(muxed, protocol)
            if not is_accepted:
                raise TransportError(
                    f"{peer_id} does not serve {protocol} to us",
                    code="protocol-refused",
                    peer=peer_id,
                )
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await muxed.reset()
            if isinstance(error, trio.TooSlowError | RemoteProtocolError):
                raise StreamLostError(
                    f"{peer_id} did not answer to {protocol}: {error}", peer=peer_id
                ) from error
            raise
        return muxed

    def _on_stream(self, muxed: MuxedStream) -> None:
        assert self._nursery is not None, "connections exist only while the transport runs"
        self._nursery.start_soon(self._serve_stream, muxed)

    async def _serve_stream(self, muxed: MuxedStream) -> None:
        """Serve one stream; whatever goes wrong with it ends it and nothing else."""
        try:
            service = await self._negotiate(muxed)
            await service.serve(muxed)
        except (TransportError, RemoteProtocolError, trio.TooSlowError) as error:
            log.info("stream ended", extra={"peer": muxed.peer_id, "reason": str(error)})
        except Exception:  # the stream boundary, for our handlers and GossipSub's alike
            log.exception("stream handler failed", extra={"peer": muxed.peer_id})
        finally:
            with trio.CancelScope(shield=True):
                await muxed.reset()

    async def _negotiate(self, muxed: MuxedStream) -> _Service:
        with trio.fail_after(2 * OPEN_STREAM_TIMEOUT_S):
            protocol = await negotiation.answer(muxed, partial(self._is_served, muxed.peer_id))
        return self._services[protocol]

    async def _is_served(self, peer_id: PeerId, protocol: str) -> bool:
        service = self._services.get(protocol)
        if service is None:
            return False
        return service.before_hello or await self._connections.wait_admitted(peer_id)

    def serve(self, protocol: str, handler: StreamHandler, *, before_hello: bool = False) -> None:
        """Call ``handler`` for every stream of this protocol that a peer opens."""

        async def serve_framed(muxed: MuxedStream) -> None:
            stream = FramedStream(muxed)
            await handler(stream)
            await stream.aclose()

        self._services[protocol] = _Service(serve_framed, before_hello)

    # -- admission, gossip, connections
    # ----------------------------------------------------------------

    def admit(self, peer_id: PeerId) -> None:
        """Serve all protocols and gossip to this connected peer."""
        self._connections.admit(peer_id)

    def is_admitted(self, peer_id: PeerId) -> bool:
        """Whether this peer is admitted."""
        return self._connections.is_admitted(peer_id)

    def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        """Take part in a topic."""
        if self._nursery is not None:
            raise LocalProtocolError("subscribe before the transport runs", topic=topic)
        self._gossip.subscribe(topic, validator, handler)

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Hand a hint to gossip."""
        return await self._gossip.publish(topic, payload)

    def connected(self) -> set[PeerId]:
        """The peers with at least one live connection."""
        return self._connections.peers()

    def on_connection(self, callback: ConnectionCallback) -> None:
        """Call ``callback(peer, is_up)``."""
        self._connections.on_change(callback)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection with that peer."""
        self._connections.close(peer_id)
        await trio.lowlevel.checkpoint()
