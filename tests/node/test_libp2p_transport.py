"""What only the real network can get wrong: strangers' bytes, limits on connections, handshakes."""

from __future__ import annotations

import pytest
import trio
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair, PublicKey

from protocols.errors import PeerUnreachableError, TransportError
from protocols.limits import (
    MAX_CONNECTIONS_PER_PEER,
    MAX_HANDSHAKES,
    MAX_STREAMS_BEFORE_HELLO,
)
from protocols.transport import Stream, negotiation, open_transport, pinned
from protocols.transport.channel import RawChannel
from protocols.transport.upgrade import libp2p_keys, secure_with_noise
from protocols.transport.yamux import HEADER, Flag, Kind
from tests.guards.attacker import frame, noise, tcp
from tests.support.transports import connect, echo, key, libp2p, running, until

ECHO = "/test/echo/1"


async def read_to_the_end(raw: RawChannel) -> None:
    while True:
        await raw.receive()


async def test_a_port_that_is_taken_is_a_clear_error():
    one = libp2p(key(1))

    async with running(one):
        two = open_transport(key(2), one.addresses)
        with pytest.raises(TransportError) as caught:
            await two.run()

    assert caught.value.code == "listen-failed"
    assert caught.value.hint


async def test_who_dials_while_the_transport_stops_reaches_nobody():
    one, two = libp2p(key(1)), libp2p(key(2))

    async with running(two):
        async with running(one):
            pass
        with pytest.raises(PeerUnreachableError) as caught:
            await one.dial(two.peer_id, two.addresses)

    assert [*caught.value.details["attempts"].values()] == ["this peer is stopping"]


async def test_strangers_that_say_nothing_do_not_keep_others_out():
    one, two = libp2p(key(1)), libp2p(key(2))

    async with running(one, two), trio.open_nursery() as nursery:

        async def say_nothing() -> None:
            async with tcp(one.addresses[0]):
                await trio.sleep_forever()

        for _ in range(MAX_HANDSHAKES // 2):
            nursery.start_soon(say_nothing)
        await trio.sleep(0.1)
        with trio.fail_after(5):
            await two.dial(one.peer_id, one.addresses)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\x00\x20" + bytes(32) + b"\xff" * 200,
        b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 20,
        b"\xff" * 64,
        b"\x00",
    ],
)
async def test_a_stranger_that_talks_nonsense_is_hung_up_on(greeting: bytes):
    one, two = libp2p(key(1)), libp2p(key(2))

    async with running(one, two):
        async with tcp(one.addresses[0]) as raw:
            await raw.write(greeting)
            with trio.fail_after(10), pytest.raises(TransportError):
                await read_to_the_end(raw)

        assert one.connected() == set()
        await connect(two, one)


async def test_a_handshake_signed_with_another_key_is_refused():
    one, impostor, admin = libp2p(key(1)), key(3), key(2)
    claimed = libp2p_keys(admin).public_key

    class ForgingKey(Ed25519PrivateKey):
        def get_public_key(self) -> PublicKey:
            return claimed

    real = libp2p_keys(impostor).private_key
    forged = KeyPair(ForgingKey.from_bytes(real.to_bytes()), claimed)

    async with running(one), tcp(one.addresses[0]) as raw:
        assert await negotiation.propose(raw, "/noise")
        channel, _ = await secure_with_noise(raw, forged, one.peer_id)
        with trio.fail_after(5), pytest.raises(TransportError):
            await channel.receive()

        assert one.connected() == set()


@pytest.mark.parametrize(
    "broken",
    [
        HEADER.pack(1, Kind.PING, Flag.SYN, 0, 0),
        HEADER.pack(0, 9, 0, 1, 0),
        HEADER.pack(0, Kind.WINDOW, Flag.SYN, 2, 0),
        HEADER.pack(0, Kind.WINDOW, Flag.SYN, 0, 0),
        HEADER.pack(0, Kind.DATA, 0, 77, 0xFFFF_FFFF),
        frame(Kind.WINDOW, Flag.SYN, 1) * 2,
    ],
)
async def test_a_peer_that_breaks_yamux_is_hung_up_on(broken: bytes):
    one = libp2p(key(1))

    async with running(one), noise(one.addresses[0], key(3), one.peer_id) as channel:
        await until(lambda: one.connected() == {key(3).peer_id})
        await channel.write(broken)
        await until(lambda: not one.connected())


async def test_a_peer_that_never_reads_its_answers_is_hung_up_on():
    one = libp2p(key(1))
    pings = HEADER.pack(0, Kind.PING, Flag.SYN, 0, 7) * 5_000

    async with running(one), noise(one.addresses[0], key(3), one.peer_id) as channel:
        await until(lambda: one.connected() == {key(3).peer_id})
        with trio.move_on_after(20):
            try:
                while one.connected():
                    await channel.write(pings)
            except TransportError:
                pass

        await until(lambda: not one.connected())


async def test_a_peer_has_a_limit_on_connections_and_its_last_ones_end_its_presence():
    one, peer = libp2p(key(1)), key(3)
    changes: list[bool] = []
    one.on_connection(lambda who, is_up: changes.append(is_up))

    async with running(one), trio.open_nursery() as nursery:
        is_open: list[bool] = []

        async def hold() -> None:
            async with noise(one.addresses[0], peer, one.peer_id) as channel:
                is_open.append(True)
                try:
                    while True:
                        await channel.receive()
                except TransportError:
                    is_open.pop()

        for _ in range(MAX_CONNECTIONS_PER_PEER + 2):
            nursery.start_soon(hold)
        await trio.sleep(0.5)
        assert len(is_open) == MAX_CONNECTIONS_PER_PEER
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint()

    assert changes == [True, False]


async def test_a_stranger_has_few_streams_before_its_hello():
    one, two = libp2p(key(1)), libp2p(key(2))

    async def wait(stream: Stream) -> None:
        await trio.sleep_forever()

    one.serve(ECHO, wait, before_hello=True)
    async with running(one, two):
        await connect(two, one)
        for _ in range(MAX_STREAMS_BEFORE_HELLO):
            await two.open_stream(one.peer_id, ECHO)

        with pytest.raises(TransportError):
            await two.open_stream(one.peer_id, ECHO)


async def test_an_identity_does_not_connect_to_itself():
    one = libp2p(key(1))

    async with running(one):
        with trio.fail_after(5), pytest.raises(PeerUnreachableError):
            await one.dial(one.peer_id, one.addresses)


async def test_small_frames_pass_between_the_pieces_of_a_large_one():
    one, two = libp2p(key(1)), libp2p(key(2))
    gate = trio.Event()

    async def read_later(stream: Stream) -> None:
        await gate.wait()
        await stream.receive()

    two.serve("/test/late/1", read_later)
    two.serve(ECHO, echo)
    async with running(one, two):
        await connect(one, two)
        two.admit(one.peer_id)
        large = await one.open_stream(two.peer_id, "/test/late/1")
        small = await one.open_stream(two.peer_id, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(large.send, bytes(1 << 20))  # four windows: stays in mid-frame
            await trio.sleep(0.1)
            with trio.fail_after(5):
                await small.send(b"x")
                assert await small.receive() == b"x"
            gate.set()


def test_the_libp2p_that_is_installed_is_the_one_that_was_examined():
    pinned.check()
