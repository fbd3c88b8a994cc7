"""Our swarm and muxer against a stock py-libp2p host, which shares none of their code: connections
either way, streams, gossip, liveness, and how each of them ends.

What both sides share is the Noise handshake and GossipSub, which are py-libp2p's own. What yamux
allows and a stock host never does is written out byte by byte at the end.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair, PublicKey
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux as stock_yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from protocols.errors import PeerUnreachableError, StreamLostError, TransportError
from protocols.limits import MAX_FRAME_BYTES
from protocols.transport import Stream, Transport, connections, muxer
from protocols.transport.channel import SecureChannel
from protocols.transport.upgrade import libp2p_keys
from protocols.transport.yamux import HEADER, Flag, GoAway, Kind
from tests.guards.attacker import noise
from tests.support.transports import LOOPBACK, connect_admitted, echo, key, libp2p, running, until

HELLO = "/test/hello/1"
ECHO = "/test/echo/1"
TOPIC = "test/topic"
OURS, STOCK = 1, 2
FIVE_MEGABYTES = [random.Random(size).randbytes(size) for size in [1, 70_000, MAX_FRAME_BYTES] * 5]

Security = dict[Any, Any] | None


# -- a stock host, and our frames written out by hand
# ---------------------------------------------------------------------------------------------


def noise_only(keys: KeyPair) -> Security:
    return {"/noise": NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)}


def everything(keys: KeyPair) -> Security:
    """py-libp2p's default: Noise, TLS, SECIO and plaintext."""
    return None


def plaintext_only(keys: KeyPair) -> Security:
    return {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}


@asynccontextmanager
async def stock_host(
    keys: KeyPair | None = None, security: Callable[[KeyPair], Security] = noise_only
) -> AsyncGenerator[IHost]:
    keys = keys or libp2p_keys(key(STOCK))
    listen = [Multiaddr(LOOPBACK)]
    host = new_host(
        key_pair=keys, sec_opt=security(keys), muxer_preference="YAMUX", listen_addrs=listen
    )
    async with host.run(listen_addrs=listen):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True):
                await host.close()


def name_of(host: IHost) -> str:
    return host.get_id().to_base58()


def addresses_of(host: IHost) -> list[str]:
    return [str(address) for address in host.get_transport_addrs()]


def id_of(transport: Transport) -> ID:
    return ID.from_base58(transport.peer_id)


def place_of(transport: Transport) -> PeerInfo:
    return PeerInfo(id_of(transport), [Multiaddr(address) for address in transport.addresses])


async def stock_dials(host: IHost, ours: Transport) -> None:
    await host.connect(place_of(ours))


async def we_dial(host: IHost, ours: Transport) -> None:
    await ours.dial(name_of(host), addresses_of(host))


either_dials = pytest.mark.parametrize("dial", [stock_dials, we_dial])


async def connect_stock(
    host: IHost, ours: Transport, dial: Callable[..., Any] = stock_dials
) -> None:
    """Connect, and wait until both sides know."""
    with trio.fail_after(10):
        await dial(host, ours)
    await until(lambda: ours.connected() == {name_of(host)})
    await until(lambda: id_of(ours) in host.get_connected_peers())


class StockFrames:
    """Frames over a stock stream: ``u32 length | payload``, and zero with a digest at the end."""

    def __init__(self, stream: INetStream) -> None:
        self.stream = stream
        self._sent = hashlib.sha256()
        self._received = hashlib.sha256()

    async def send(self, payload: bytes) -> None:
        self._sent.update(payload)
        await self.stream.write(struct.pack("!I", len(payload)) + payload)

    async def finish(self) -> None:
        await self.stream.write(struct.pack("!I", 0) + self._sent.digest())
        await self.stream.close()

    async def receive(self) -> bytes | None:
        (length,) = struct.unpack("!I", await self._exactly(4))
        if length == 0:
            assert await self._exactly(32) == self._received.digest()
            return None
        payload = await self._exactly(length)
        self._received.update(payload)
        return payload

    async def _exactly(self, n: int) -> bytes:
        received = bytearray()
        while len(received) < n:
            received += await self.stream.read(n - len(received))
        return bytes(received)


async def open_stock(host: IHost, ours: Transport, protocol: str) -> StockFrames:
    with trio.fail_after(10):
        return StockFrames(await host.new_stream(id_of(ours), [protocol]))


async def stock_echo(stream: INetStream) -> None:
    frames = StockFrames(stream)
    while (frame := await frames.receive()) is not None:
        await frames.send(frame)
    await frames.finish()


async def exchange(stream: StockFrames | Stream, frames: list[bytes]) -> list[bytes]:
    """Send all frames and the end; return what came back until its end."""
    answers: list[bytes] = []

    async def send_all() -> None:
        for frame in frames:
            await stream.send(frame)
        await stream.finish()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            while (frame := await stream.receive()) is not None:
                answers.append(frame)
    return answers


# -- connections
# ---------------------------------------------------------------------------------------------


@either_dials
async def test_a_stock_host_and_ours_connect_and_each_knows_who_the_other_is(
    dial: Callable[..., Any],
):
    ours = libp2p(key(OURS))

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours, dial)

        assert ours.connected() == {key(STOCK).peer_id}
        assert host.get_connected_peers() == [ID.from_base58(key(OURS).peer_id)]


async def test_neither_takes_the_other_for_somebody_else():
    ours, absent = libp2p(key(OURS)), key(3).peer_id

    async with running(ours), stock_host() as host:
        with pytest.raises(PeerUnreachableError):
            await ours.dial(absent, addresses_of(host))
        with pytest.raises(SwarmException):
            await host.connect(PeerInfo(ID.from_base58(absent), place_of(ours).addrs))

        assert ours.connected() == set()
        assert host.get_connected_peers() == []


async def test_a_stock_host_that_offers_everything_is_taken_by_noise():
    ours = libp2p(key(OURS))

    async with running(ours), stock_host(security=everything) as host:
        await connect_stock(host, ours)

        (connection,) = host.get_network().get_connections(id_of(ours))
        assert cast("Any", connection).get_negotiated_security_protocol() == "/noise"


def forged_keys() -> KeyPair:
    """A key pair whose public half is an admin's, and whose private half is not."""
    claimed = libp2p_keys(key(3)).public_key

    class ForgingKey(Ed25519PrivateKey):
        def get_public_key(self) -> PublicKey:
            return claimed

    return KeyPair(ForgingKey.from_bytes(libp2p_keys(key(4)).private_key.to_bytes()), claimed)


@pytest.mark.parametrize("security", [everything, plaintext_only])
async def test_a_stock_host_with_a_forged_identity_is_refused(
    security: Callable[[KeyPair], Security],
):
    ours, admin = libp2p(key(OURS)), key(3).peer_id
    seen: list[tuple[str, bool]] = []
    ours.on_connection(lambda peer, is_up: seen.append((peer, is_up)))

    async with running(ours), stock_host(forged_keys(), security) as impostor:
        assert name_of(impostor) == admin
        with trio.fail_after(10), pytest.raises(SwarmException):
            await impostor.connect(place_of(ours))

    assert seen == []


async def test_the_same_forgery_succeeds_with_a_stock_host():
    async with (
        stock_host(security=everything) as victim,
        stock_host(forged_keys(), plaintext_only) as impostor,
    ):
        await impostor.connect(PeerInfo(victim.get_id(), victim.get_transport_addrs()))
        await until(lambda: bool(victim.get_connected_peers()))

        assert victim.get_connected_peers() == [ID.from_base58(key(3).peer_id)]


# -- streams
# ---------------------------------------------------------------------------------------------


@either_dials
async def test_a_stock_stream_carries_five_megabytes_each_way_before_hello(
    dial: Callable[..., Any],
):
    ours = libp2p(key(OURS))
    ours.serve(HELLO, echo, before_hello=True)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours, dial)
        stream = await open_stock(host, ours, HELLO)

        assert await exchange(stream, FIVE_MEGABYTES) == FIVE_MEGABYTES


@either_dials
async def test_a_stock_handler_echoes_our_five_megabytes(dial: Callable[..., Any]):
    ours = libp2p(key(OURS))

    async with running(ours), stock_host() as host:
        host.set_stream_handler(ECHO, stock_echo)
        await connect_stock(host, ours, dial)
        stream = await ours.open_stream(name_of(host), ECHO)

        assert await exchange(stream, FIVE_MEGABYTES) == FIVE_MEGABYTES
        assert stream.peer_id == name_of(host)


def refused_by_name(failed: pytest.ExceptionInfo[StreamFailure]) -> bool:
    """Whether a stock host was told `na`, and did not just wait or lose its stream."""
    return "protocols not supported" in str(failed.value.__cause__)


async def test_a_stock_peer_is_served_everything_once_it_is_admitted(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(connections, "ADMISSION_WAIT_S", 0.1)
    ours = libp2p(key(OURS))
    ours.serve(ECHO, echo)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        with pytest.raises(StreamFailure) as early:
            await open_stock(host, ours, ECHO)
        assert refused_by_name(early)
        ours.admit(name_of(host))
        stream = await open_stock(host, ours, ECHO)

        assert await exchange(stream, [b"a", b"b"]) == [b"a", b"b"]


async def test_a_stock_stream_may_name_several_protocols_and_gets_the_one_we_serve():
    ours = libp2p(key(OURS))
    ours.serve(HELLO, echo, before_hello=True)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        with trio.fail_after(10):
            opened = await host.new_stream(id_of(ours), ["/test/hello/3", "/test/hello/2", HELLO])

        assert opened.get_protocol() == HELLO
        assert await exchange(StockFrames(opened), [b"a"]) == [b"a"]


async def test_a_stock_host_that_does_not_serve_our_protocol_refuses_it():
    ours = libp2p(key(OURS))

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        with pytest.raises(TransportError) as refused:
            await ours.open_stream(name_of(host), ECHO)

    assert refused.value.code == "protocol-refused"


async def test_stock_identify_and_ping_are_declined_and_do_no_harm():
    ours = libp2p(key(OURS))
    ours.serve(HELLO, echo, before_hello=True)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        for protocol in (IDENTIFY, PING):
            with pytest.raises(StreamFailure) as declined:
                await open_stock(host, ours, protocol)
            assert refused_by_name(declined)

        assert await exchange(await open_stock(host, ours, HELLO), [b"a"]) == [b"a"]


# -- how streams and connections end
# ---------------------------------------------------------------------------------------------


class Collector:
    """A handler of ours that keeps what came and how it ended."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.end: str = ""

    async def __call__(self, stream: Stream) -> None:
        try:
            while (frame := await stream.receive()) is not None:
                self.frames.append(frame)
            self.end = "whole"
        except StreamLostError:
            self.end = "lost"


@pytest.mark.parametrize("let_go", ["reset", "close"])
async def test_a_stock_stream_that_ends_without_its_end_marker_is_lost(let_go: str):
    ours, collect = libp2p(key(OURS)), Collector()
    ours.serve(HELLO, collect, before_hello=True)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        stream = await open_stock(host, ours, HELLO)
        await stream.send(b"part")
        await until(lambda: collect.frames == [b"part"])
        await getattr(stream.stream, let_go)()
        await until(lambda: collect.end != "")

        assert collect.end == "lost"
        assert ours.connected() == {name_of(host)}


async def test_a_stock_reader_sees_our_reset_after_what_came_before_it():
    ours, done = libp2p(key(OURS)), trio.Event()

    async def send_a_part(stream: Stream) -> None:
        await stream.send(b"part")
        await done.wait()
        raise ValueError("bug")

    ours.serve(HELLO, send_a_part, before_hello=True)
    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        stream = await open_stock(host, ours, HELLO)
        assert await stream.receive() == b"part"
        done.set()
        with trio.fail_after(5), pytest.raises(StreamError):
            await stream.receive()

        assert host.get_connected_peers() == [id_of(ours)]


async def flood(stream: StockFrames) -> None:
    while True:
        await stream.send(bytes(10_000))


async def test_a_stock_writer_whose_stream_we_drop_is_told_and_keeps_its_connection():
    ours = libp2p(key(OURS))

    async def drop(stream: Stream) -> None:
        await stream.receive()

    ours.serve(HELLO, drop, before_hello=True)
    ours.serve(ECHO, echo, before_hello=True)
    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        stream = await open_stock(host, ours, HELLO)
        with trio.fail_after(5), pytest.raises(StreamError):
            await flood(stream)

        assert await exchange(await open_stock(host, ours, ECHO), [b"a"]) == [b"a"]


async def test_a_half_closed_stock_stream_still_takes_a_long_answer():
    ours = libp2p(key(OURS))
    frames = [bytes(100_000)] * 30

    async def answer_at_the_end(stream: Stream) -> None:
        while await stream.receive() is not None:
            pass
        for frame in frames:
            await stream.send(frame)
        await stream.finish()

    ours.serve(HELLO, answer_at_the_end, before_hello=True)
    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        stream = await open_stock(host, ours, HELLO)

        assert await exchange(stream, [b"question"]) == frames


async def test_many_short_stock_streams_leave_no_place_taken():
    ours = libp2p(key(OURS))
    ours.serve(HELLO, echo, before_hello=True)

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours)
        for _ in range(40):  # five times as many as a stranger may hold at once
            assert await exchange(await open_stock(host, ours, HELLO), [b"a"]) == [b"a"]


@either_dials
@pytest.mark.parametrize("who_leaves", ["stock", "ours"])
async def test_when_one_side_hangs_up_the_other_notices(who_leaves: str, dial: Callable[..., Any]):
    ours = libp2p(key(OURS))

    async with running(ours), stock_host() as host:
        await connect_stock(host, ours, dial)
        if who_leaves == "stock":
            await host.disconnect(id_of(ours))
        else:
            await ours.disconnect(name_of(host))

        await until(lambda: not ours.connected())
        await until(lambda: not host.get_connected_peers())


# -- liveness
# ---------------------------------------------------------------------------------------------


@either_dials
async def test_an_idle_connection_lives_on_by_the_pings_of_both_sides(
    dial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    ours = libp2p(key(OURS))
    changes: list[bool] = []
    ours.on_connection(lambda peer, is_up: changes.append(is_up))
    sent = {Flag.SYN: 0, Flag.ACK: 0}  # pings by the stock side, and its answers to ours
    write_frame = stock_yamux.Yamux._write_frame

    async def count_pings(self: stock_yamux.Yamux, data: bytes) -> None:
        _, kind, flags, _, _ = HEADER.unpack_from(data)
        if kind == Kind.PING:
            sent[flags] += 1
        await write_frame(self, data)

    monkeypatch.setattr(stock_yamux.Yamux, "_write_frame", count_pings)
    monkeypatch.setattr(stock_yamux, "RTT_MEASURE_INTERVAL", 0.2)
    monkeypatch.setattr(muxer, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(muxer, "PEER_SILENCE_S", 0.5)  # the wait below is several of it
    async with running(ours), stock_host() as host:
        await connect_stock(host, ours, dial)
        (connection,) = host.get_network().get_connections(id_of(ours))
        await until(lambda: sent[Flag.ACK] >= 30 and sent[Flag.SYN] >= 3)

        assert cast("Any", connection.muxed_conn).rtt() > 0  # our answers arrived
        assert changes == [True]
        assert host.get_connected_peers() == [id_of(ours)]


# -- gossip
# ---------------------------------------------------------------------------------------------


class StockGossip:
    """A stock GossipSub on a stock host, with what it heard on the topic."""

    def __init__(self, pubsub: Pubsub) -> None:
        self.pubsub = pubsub
        self.heard: set[bytes] = set()

    async def publish(self, payload: bytes) -> None:
        await self.pubsub.publish(TOPIC, payload)


@asynccontextmanager
async def stock_gossip(host: IHost) -> AsyncGenerator[StockGossip]:
    router = GossipSub(
        protocols=["/meshsub/1.2.0", "/meshsub/1.1.0"],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
    )
    pubsub = Pubsub(host, router)
    gossip = StockGossip(pubsub)

    async def listen() -> None:
        subscription = await pubsub.subscribe(TOPIC)
        while True:
            gossip.heard.add((await subscription.get()).data)

    async with (
        background_trio_service(router),
        background_trio_service(pubsub),
        trio.open_nursery() as nursery,
    ):
        await pubsub.wait_until_ready()
        nursery.start_soon(listen)
        yield gossip
        nursery.cancel_scope.cancel()


async def publish_until_heard(
    publish: Callable[[bytes], Any], payload: bytes, heard: set[bytes]
) -> None:
    """Publish again and again, for a hint may be lost while the mesh forms."""
    with trio.fail_after(15):
        while payload not in heard:
            await publish(payload)
            await trio.sleep(0.2)


def listening(transport: Transport) -> set[bytes]:
    heard: set[bytes] = set()
    transport.subscribe(TOPIC, lambda peer, payload: True, lambda peer, payload: heard.add(payload))
    return heard


def ours_on(transport: Transport) -> Callable[[bytes], Any]:
    return lambda payload: transport.publish(TOPIC, payload)


@either_dials
async def test_gossip_passes_both_ways_with_an_admitted_stock_peer(dial: Callable[..., Any]):
    ours = libp2p(key(OURS))
    heard = listening(ours)

    async with running(ours), stock_host() as host, stock_gossip(host) as theirs:
        await connect_stock(host, ours, dial)
        ours.admit(name_of(host))
        await publish_until_heard(ours_on(ours), b"ours", theirs.heard)
        await publish_until_heard(theirs.publish, b"theirs", heard)

    assert heard == {b"theirs"}


async def test_a_stock_peer_gets_no_gossip_and_is_not_listened_to_before_it_is_admitted(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(connections, "ADMISSION_WAIT_S", 0.1)
    ours, friend = libp2p(key(OURS)), libp2p(key(3))
    heard, friend_heard = listening(ours), listening(friend)

    async with running(ours, friend), stock_host() as host, stock_gossip(host) as stranger:
        await connect_stock(host, ours)
        await connect_admitted(friend, ours)
        own = {b"from a stranger %d" % number for number in range(3)}
        for number, payload in enumerate(sorted(own)):
            await stranger.publish(payload)
            await publish_until_heard(ours_on(ours), b"for members %d" % number, friend_heard)

        assert stranger.heard == own
        assert heard == set()
        assert not stranger.pubsub.peers  # its gossip stream was refused

        ours.admit(name_of(host))
        # A stock GossipSub asks once a connection; refused, it must be told to ask again.
        assert await stranger.pubsub.ensure_peer_stream(id_of(ours))
        await publish_until_heard(ours_on(ours), b"welcome", stranger.heard)
        await publish_until_heard(stranger.publish, b"thank you", heard)


# -- what the yamux specification allows, and a stock host never does
# ---------------------------------------------------------------------------------------------


def line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


PROPOSAL = line("/multistream/1.0.0") + line(HELLO)


def data(flags: int, stream_id: int, body: bytes) -> bytes:
    return HEADER.pack(0, Kind.DATA, flags, stream_id, len(body)) + body


async def exactly(channel: SecureChannel, n: int) -> bytes:
    received = b""
    while len(received) < n:
        received += await channel.read(n - len(received))
    return received


async def frames_until_the_end(channel: SecureChannel) -> list[tuple[int, int, int, int, bytes]]:
    """Every (kind, flags, stream, value, body) until we are hung up on."""
    frames: list[tuple[int, int, int, int, bytes]] = []
    with trio.fail_after(10):
        while True:
            try:
                _, kind, flags, stream_id, value = HEADER.unpack(await exactly(channel, 12))
                body = await exactly(channel, value) if kind == Kind.DATA else b""
            except TransportError:
                return frames
            frames.append((kind, flags, stream_id, value, body))


async def test_a_stream_may_open_and_half_close_by_its_data_frames():
    ours = libp2p(key(OURS))

    async def answer_and_hang_up(stream: Stream) -> None:
        await echo(stream)
        await ours.disconnect(stream.peer_id)

    ours.serve(HELLO, answer_and_hang_up, before_hello=True)
    question = struct.pack("!I", 1) + b"?" + bytes(4) + hashlib.sha256(b"?").digest()
    async with running(ours), noise(ours.addresses[0], key(3), ours.peer_id) as channel:
        await channel.write(data(Flag.SYN, 1, PROPOSAL) + data(Flag.FIN, 1, question))
        frames = await frames_until_the_end(channel)

    assert b"".join(frame[4] for frame in frames) == PROPOSAL + question
    assert frames[0][:3] == (Kind.WINDOW, Flag.ACK, 1)
    assert (Kind.WINDOW, Flag.FIN, 1, 0, b"") in frames
    assert frames[-1] == (Kind.GO_AWAY, Flag.NONE, 0, GoAway.NORMAL, b"")


async def test_credit_that_comes_with_the_opening_is_used():
    ours = libp2p(key(OURS))

    async def send_much(stream: Stream) -> None:
        await stream.send(bytes(MAX_FRAME_BYTES))
        await ours.disconnect(stream.peer_id)

    ours.serve(HELLO, send_much, before_hello=True)
    opening = HEADER.pack(0, Kind.WINDOW, Flag.SYN, 1, MAX_FRAME_BYTES)
    async with running(ours), noise(ours.addresses[0], key(3), ours.peer_id) as channel:
        await channel.write(opening + data(Flag.NONE, 1, PROPOSAL))
        frames = await frames_until_the_end(channel)

    sent = b"".join(frame[4] for frame in frames)
    assert sent == PROPOSAL + struct.pack("!I", MAX_FRAME_BYTES) + bytes(MAX_FRAME_BYTES)


async def test_frames_of_streams_that_are_no_more_are_thrown_away_and_pings_echoed():
    ours = libp2p(key(OURS))
    stale = (
        data(Flag.NONE, 7, b"late")
        + HEADER.pack(0, Kind.WINDOW, Flag.NONE, 7, 9)
        + HEADER.pack(0, Kind.WINDOW, Flag.FIN, 7, 0)
        + HEADER.pack(0, Kind.WINDOW, Flag.RST, 7, 0)
        + HEADER.pack(0, Kind.WINDOW, Flag.ACK, 2, 0)
    )
    ping = HEADER.pack(0, Kind.PING, Flag.SYN, 0, 0xFFFF_FFFF)

    async with running(ours), noise(ours.addresses[0], key(3), ours.peer_id) as channel:
        await channel.write(stale + ping)

        assert HEADER.unpack(await exactly(channel, 12)) == (0, Kind.PING, Flag.ACK, 0, 0xFFFF_FFFF)


async def test_a_peer_that_breaks_yamux_is_told_so_before_it_is_hung_up_on():
    ours = libp2p(key(OURS))

    async with running(ours), noise(ours.addresses[0], key(3), ours.peer_id) as channel:
        await channel.write(HEADER.pack(0, Kind.WINDOW, Flag.SYN, 2, 0))  # an even number is ours
        frames = await frames_until_the_end(channel)

    assert frames[-1] == (Kind.GO_AWAY, Flag.NONE, 0, GoAway.PROTOCOL_ERROR, b"")


async def test_a_transport_that_stops_says_so():
    ours = libp2p(key(OURS))

    async with running(ours):
        held = noise(ours.addresses[0], key(3), ours.peer_id)
        channel = await held.__aenter__()
        await until(lambda: bool(ours.connected()))
    frames = await frames_until_the_end(channel)
    await held.__aexit__(None, None, None)

    assert frames == [(Kind.GO_AWAY, Flag.NONE, 0, GoAway.NORMAL, b"")]


async def test_stopping_does_not_wait_for_a_peer_that_reads_nothing():
    ours = libp2p(key(OURS))

    async def send_for_ever(stream: Stream) -> None:
        while True:
            await stream.send(bytes(MAX_FRAME_BYTES))

    ours.serve(HELLO, send_for_ever, before_hello=True)
    opening = HEADER.pack(0, Kind.WINDOW, Flag.SYN, 1, 1 << 30)
    async with trio.open_nursery() as nursery:
        await nursery.start(ours.run)
        async with noise(ours.addresses[0], key(3), ours.peer_id) as channel:
            await channel.write(opening + data(Flag.NONE, 1, PROPOSAL))
            await until(lambda: bool(ours.connected()))
            await trio.testing.wait_all_tasks_blocked(0.1)  # the kernel's buffers are full
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                await until(lambda: not ours.connected())
                while nursery.child_tasks:  # noqa: ASYNC110 - a nursery has no event for it
                    await trio.sleep(0.01)
