"""Guards on streams: what one of them does wrong, or has done to it, harms no other."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from libp2p.utils import encode_varint_prefixed

from protocols.errors import CoveyError, StreamLostError, TransportError
from protocols.limits import MAX_FRAME_BYTES
from protocols.transport import Stream, Transport
from protocols.transport.host import Libp2pTransport
from protocols.transport.muxed_stream import MuxedStream
from protocols.transport.muxer import Muxer
from protocols.transport.stream import FramedStream
from tests.guards.attacker import BareStream, noise
from tests.support.transports import connect_admitted, echo, key, libp2p, running, until

pytestmark = pytest.mark.guard

ECHO = "/test/echo/1"


async def assert_echoes(one: Transport, other: Transport) -> None:
    with trio.fail_after(10):
        stream = await one.open_stream(other.peer_id, ECHO)
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"
        await stream.aclose()


async def sink(stream: Stream) -> None:
    while await stream.receive() is not None:
        pass


async def test_an_exception_in_a_handler_ends_its_stream_only():
    one, two = libp2p(key(1)), libp2p(key(2))

    async def fail(stream: Stream) -> None:
        raise ValueError("bug")

    two.serve("/test/fail/1", fail)
    two.serve(ECHO, echo)
    async with running(one, two):
        await connect_admitted(one, two)
        for _ in range(20):
            stream = await one.open_stream(two.peer_id, "/test/fail/1")
            with trio.fail_after(5), pytest.raises(StreamLostError):
                await stream.receive()

        await assert_echoes(one, two)


async def test_forty_cancelled_bulk_writes_leave_the_connection_whole():
    one, two = libp2p(key(1)), libp2p(key(2))
    changes: list[bool] = []
    one.on_connection(lambda peer, is_up: changes.append(is_up))
    two.serve(ECHO, echo)
    two.serve("/test/sink/1", sink)

    async with running(one, two):
        await connect_admitted(one, two)
        for number in range(40):
            stream = await one.open_stream(two.peer_id, "/test/sink/1")
            with trio.move_on_after(0.002 + 0.003 * (number % 9)):
                while True:
                    await stream.send(bytes(MAX_FRAME_BYTES))
            await stream.reset()
            await assert_echoes(one, two)

        assert changes == [True]


class HalvedChannel:
    """A channel that takes the first half of each write at once, and the second when ``gate``
    opens.
    """

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.half_taken = trio.Event()
        self._send, self._receive = trio.open_memory_channel[bytes](1_000)

    async def write(self, payload: bytes) -> None:
        await self._send.send(payload[: len(payload) // 2])
        self.half_taken.set()
        await self.gate.wait()
        await self._send.send(payload[len(payload) // 2 :])

    def write_now(self, payload: bytes) -> bytes:
        return payload

    async def write_rest(self, rest: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        return await self._receive.receive()

    async def read(self, n: int) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Joined:
    """Reads from one halved channel and writes to another."""

    def __init__(self, inbound: HalvedChannel, outbound: HalvedChannel) -> None:
        self.receive = inbound.receive
        self.write = outbound.write
        self.write_now = outbound.write_now
        self.write_rest = outbound.write_rest
        self.read = inbound.read
        self.aclose = outbound.aclose


async def test_a_write_cancelled_in_mid_frame_puts_the_whole_frame_on_the_wire_or_none():
    there, back = HalvedChannel(), HalvedChannel()
    back.gate.set()
    opened: list[FramedStream] = []
    one = Muxer(Joined(back, there), "two", is_initiator=True)
    two = Muxer(Joined(there, back), "one", is_initiator=False)

    def keep(muxed: MuxedStream) -> None:
        opened.append(FramedStream(muxed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, keep)
        nursery.start_soon(two.run, keep)
        first, second = FramedStream(one.open()), FramedStream(one.open())
        async with trio.open_nursery() as sending:
            sending.start_soon(first.send, b"cancelled" * 1_000)
            await there.half_taken.wait()
            await trio.sleep(
                0.05
            )  # the frame itself is now in mid-write, or waits behind the opening
            sending.cancel_scope.cancel()
        there.gate.set()
        with trio.fail_after(5):
            await second.send(b"next")
            await until(lambda: len(opened) == 2)
            assert await opened[1].receive() == b"next"
            with trio.move_on_after(0.2):
                assert await opened[0].receive() == b"cancelled" * 1_000
        assert (one.reason, two.reason) == (None, None)
        nursery.cancel_scope.cancel()


async def test_a_sender_that_ignores_the_window_is_cut_off_before_it_fills_our_memory():
    victim, attacker = libp2p(key(1)), key(3)
    outcome = "still sending"

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    victim.serve("/test/stall/1", never_read, before_hello=True)
    async with running(victim):
        async with noise(victim.addresses[0], attacker, victim.peer_id) as channel:
            stream = BareStream(channel)
            await stream.open("/test/stall/1")
            with trio.move_on_after(10):
                try:
                    for _ in range(512):
                        await stream.write(bytes(64 << 10))
                    outcome = "32 MiB were taken"
                except TransportError:
                    outcome = "cut off"

        assert outcome == "cut off"
        await until(lambda: not victim.connected())


GARBAGE = (
    b"\xff" * 40,
    encode_varint_prefixed(b"\xff" * 30),
    encode_varint_prefixed(b"\x0a\xff\xff\xff\xff\x0f"),
    encode_varint_prefixed(b"\x12\x02\x22\xff"),
    encode_varint_prefixed(bytes(range(256))),
    encode_varint_prefixed(b"\x12\x04\x0a\x02\xff\xff"),
)


async def test_garbage_on_meshsub_ends_that_stream_only():
    victim, attacker = libp2p(key(1)), libp2p(key(3))
    victim.serve(ECHO, echo)

    async with running(victim, attacker):
        await connect_admitted(attacker, victim)
        for garbage in GARBAGE:
            muxed = await cast("Libp2pTransport", attacker)._open_muxed(
                victim.peer_id, "/meshsub/1.1.0"
            )
            await muxed.write(garbage)
            muxed.finish()
            with trio.move_on_after(1):
                try:
                    await muxed.read(1)
                except CoveyError:
                    continue

        await assert_echoes(attacker, victim)


async def test_a_validator_that_raises_refuses_its_message_only():
    victim, sender = libp2p(key(1)), libp2p(key(2))
    heard: list[bytes] = []

    def validate(peer: str, payload: bytes) -> bool:
        if payload == b"bad":
            raise ValueError("bug")
        return True

    victim.subscribe("test/topic", validate, lambda peer, payload: heard.append(payload))
    sender.subscribe("test/topic", lambda peer, payload: True, lambda peer, payload: None)
    async with running(victim, sender):
        await connect_admitted(sender, victim)
        await trio.sleep(1.5)
        await sender.publish("test/topic", b"bad")
        await sender.publish("test/topic", b"good")
        await until(lambda: heard == [b"good"])
