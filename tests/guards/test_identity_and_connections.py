"""Guards on who connects, how, and how connections end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from libp2p.crypto.keys import KeyPair
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, make_exchange_message
from libp2p.utils import encode_varint_prefixed

from protocols.transport import negotiation
from protocols.transport.channel import RawChannel
from protocols.transport.upgrade import libp2p_keys
from protocols.transport.yamux import PROTOCOL as YAMUX
from tests.guards.attacker import tcp
from tests.support.transports import connect, connect_admitted, echo, key, libp2p, running, until

pytestmark = pytest.mark.guard

ECHO = "/test/echo/1"


async def test_nobody_can_claim_the_id_of_another_peer():
    victim, admin = libp2p(key(1)), key(2)

    async with running(victim), tcp(victim.addresses[0]) as raw:
        with trio.move_on_after(5):
            if await negotiation.propose(raw, PLAINTEXT_PROTOCOL_ID):
                await claim(raw, libp2p_keys(admin))
        await trio.sleep(0.1)

        assert admin.peer_id not in victim.connected()


async def claim(raw: RawChannel, claimed: KeyPair) -> None:
    """Send the public key of a peer whose private key we lack, and go on to yamux."""
    exchange = make_exchange_message(claimed.public_key).SerializeToString()
    await raw.write(encode_varint_prefixed(exchange))
    answer_bytes = (await raw.read(1))[0]
    assert len(await raw.read(answer_bytes)) == answer_bytes
    await negotiation.propose(raw, YAMUX)


async def test_a_dead_first_address_does_not_hide_the_second():
    one, two = libp2p(key(1)), libp2p(key(2))

    async with running(one, two):
        with trio.fail_after(10):
            await one.dial(two.peer_id, ["/ip4/127.0.0.1/tcp/1", *two.addresses])

        assert one.connected() == {two.peer_id}


async def test_a_frozen_peer_is_noticed_within_five_seconds():
    one = libp2p(key(1))
    frozen = key(2).peer_id
    changes: list[tuple[str, bool]] = []
    one.on_connection(lambda peer, is_up: changes.append((peer, is_up)))
    process = await trio.to_thread.run_sync(start_peer, 2)

    try:
        assert process.stdout is not None
        address = (await trio.to_thread.run_sync(process.stdout.readline)).strip()
        async with running(one):
            await one.dial(frozen, [address])
            stream = await one.open_stream(frozen, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: not one.connected(), within_s=5)
    finally:
        process.kill()
        process.communicate()

    assert changes == [(frozen, True), (frozen, False)]


def start_peer(number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.guards.peer_process", str(number)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


async def test_twenty_starts_and_stops_leak_no_socket_and_no_thread():
    await start_and_stop()
    gc.collect()
    gc.disable()  # an unclosed socket must stay visible
    try:
        sockets, threads = open_sockets(), threading.active_count()

        for _ in range(20):
            await start_and_stop()

        assert open_sockets() == sockets
        assert threading.active_count() == threads
    finally:
        gc.enable()


async def start_and_stop() -> None:
    one, two = libp2p(key(1)), libp2p(key(2))
    two.serve(ECHO, echo)
    async with running(one, two):
        await connect_admitted(one, two)
        stream = await one.open_stream(two.peer_id, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"


def open_sockets() -> int:
    links = Path("/proc/self/fd")
    return sum(1 for link in links.iterdir() if is_socket(link))


def is_socket(link: Path) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except FileNotFoundError:  # the listing's own descriptor
        return False


async def test_gossip_neither_comes_from_nor_goes_to_a_peer_before_its_hello():
    victim, stranger, friend = libp2p(key(1)), libp2p(key(2)), libp2p(key(3))
    heard: dict[str, list[bytes]] = {"victim": [], "stranger": [], "friend": []}
    for name, transport in (("victim", victim), ("stranger", stranger), ("friend", friend)):
        transport.subscribe(
            "test/topic",
            lambda peer, payload: True,
            lambda peer, payload, name=name: heard[name].append(payload),
        )

    async with running(victim, stranger, friend):
        await connect(stranger, victim)
        stranger.admit(victim.peer_id)
        await connect_admitted(friend, victim)
        await trio.sleep(1.5)
        await stranger.publish("test/topic", b"from a stranger")
        await victim.publish("test/topic", b"for members")
        await until(lambda: b"for members" in heard["friend"])
        await trio.sleep(2.5)  # two heartbeats, and past the wait for a late admission

    assert heard == {"victim": [], "stranger": [], "friend": [b"for members"]}
