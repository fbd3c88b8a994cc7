"""How to take each guard of the transport away, from outside: the product has no switch for it.

Each function patches the guard's one place, so that what it protects from happens again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import trio
from libp2p.crypto.keys import KeyPair
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

from protocols.transport import upgrade
from protocols.transport.channel import NoiseChannel, RawChannel, SecureChannel
from protocols.transport.connections import Connections
from protocols.transport.gossip import Gossip, Tasks
from protocols.transport.host import Libp2pTransport
from protocols.transport.muxed_stream import MuxedStream
from protocols.transport.muxer import Muxer
from protocols.transport.stream import FramedStream


def accept_plaintext() -> None:
    """Offer plaintext beside Noise, as py-libp2p does by default."""

    async def secure(
        raw: RawChannel, keys: KeyPair, expected: str | None
    ) -> tuple[SecureChannel, str]:
        connection: Any = raw
        session = await InsecureTransport(keys).secure_inbound(connection)
        return raw, session.get_remote_peer().to_base58()

    upgrade.SECURITY[str(PLAINTEXT_PROTOCOL_ID)] = secure


def serve_unguarded() -> None:
    """Let an exception leave a stream's handler."""

    async def serve_stream(self: Libp2pTransport, muxed: MuxedStream) -> None:
        service = await self._negotiate(muxed)
        await service.serve(muxed)

    Libp2pTransport._serve_stream = serve_stream


def let_callers_write() -> None:
    """Write to the socket in the task that sends, so that cancelling it cuts a message in two."""
    locks: WeakKeyDictionary[Muxer, trio.Lock] = WeakKeyDictionary()

    async def trio_write(channel: SecureChannel, payload: bytes) -> None:
        """As a stream of trio does it: there are checkpoints between encrypting and sending."""
        if isinstance(channel, NoiseChannel):
            await channel._raw._stream.send_all(channel._encrypt(payload))
        else:
            await channel.write(payload)

    async def write_out(muxer: Muxer) -> None:
        async with locks.setdefault(muxer, trio.Lock()):
            while muxer._control or muxer._frames:
                await trio_write(muxer._channel, muxer._take_batch())

    async def write_loop(self: Muxer) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(0.001)
            await write_out(self)

    async def write(self: FramedStream, encoded: bytes) -> None:
        rest = memoryview(encoded)
        while rest:
            await self._muxed.wait_writable()
            rest = self._muxed.write_some(rest)
            await write_out(self._muxed._muxer)

    Muxer._write_loop = write_loop
    FramedStream._write = write


def dial_one_address() -> None:
    """Try a peer's first address only."""
    dial = Libp2pTransport.dial

    async def dial_first(self: Libp2pTransport, peer_id: str, addresses: list[str]) -> None:
        await dial(self, peer_id, addresses[:1])

    Libp2pTransport.dial = dial_first


def watch_nobody() -> None:
    """Don't notice silence."""

    async def watch_loop(self: Muxer) -> None:
        await trio.sleep_forever()

    Muxer._watch_loop = watch_loop


def trust_senders() -> None:
    """Buffer whatever a peer sends."""

    def check_credit(self: Muxer, stream: MuxedStream | None, size: int) -> None:
        return None

    Muxer._check_credit = check_credit


def close_nothing() -> None:
    """Leave connections open when the transport stops."""

    async def keep_open(self: RawChannel) -> None:
        await trio.lowlevel.checkpoint()

    RawChannel.close = RawChannel.aclose = keep_open


def believe_validators() -> None:
    """Let an exception leave a validator, and the task that called it."""

    def take(self: Gossip, topic: str, peer_id: str, payload: bytes) -> bool:
        validator, handler = self._topics[topic]
        is_valid = validator(peer_id, payload)
        if is_valid:
            handler(peer_id, payload)
        return is_valid

    async def run(
        self: Tasks, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        await function(*args)

    Gossip._take = take
    Tasks._guard = run


def admit_everyone() -> None:
    """Treat a connection as a hello."""
    add = Connections.add

    def add_admitted(self: Connections, muxer: Muxer) -> bool:
        is_added = add(self, muxer)
        self.admit(muxer.peer_id)
        return is_added

    Connections.add = add_admitted


REMOVALS: dict[str, Callable[[], None]] = {
    "forged peer id": accept_plaintext,
    "handler exception": serve_unguarded,
    "40 cancelled bulk writes": let_callers_write,
    "write cancelled in mid-frame": let_callers_write,
    "dead first address": dial_one_address,
    "frozen peer": watch_nobody,
    "hostile sender": trust_senders,
    "20 start/stop cycles": close_nothing,
    "garbage on /meshsub/1.1.0": serve_unguarded,
    "validator that raises": believe_validators,
    "gossip before hello": admit_everyone,
}
