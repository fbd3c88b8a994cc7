from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.link import SessionLink
from node.loopback import LoopbackStream, loopback_pair
from protocols.errors import StreamLostError
from protocols.job import CODEC, Ack, Chunk, JobMessage, Message, Refuse, SessionHello
from protocols.limits import (
    BULK_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    MAX_SESSION_QUEUE,
    MAX_SESSION_QUEUE_BYTES,
)

BIG, OTHER, SMALL = b"b" * 16, b"o" * 16, b"s" * 16


@dataclass
class Session:
    """A link, the raw other end of its stream, and what its handler got."""

    link: SessionLink
    far: LoopbackStream
    taken: list[JobMessage] = field(default_factory=list)

    async def receive(self) -> list[Message]:
        frame = await self.far.receive()
        assert frame is not None
        assert len(frame) <= MAX_FRAME_BYTES
        return CODEC.decode(frame)

    async def send(self, *messages: Message) -> None:
        await self.far.send(CODEC.encode(messages))


@asynccontextmanager
async def session(*, says_hello: bool = True) -> AsyncGenerator[Session]:
    near, far = loopback_pair("12D3KooWpeer")
    one = Session(SessionLink(near, lambda _, message: one.taken.append(message)), far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.link.run)
        if says_hello:
            await one.send(SessionHello(1))
            assert await one.receive() == [SessionHello(1)]
        yield one
        nursery.cancel_scope.cancel()


def pieces(job_id: bytes, count: int) -> list[Chunk]:
    body = bytes(BULK_CHUNK_BYTES)
    return [Chunk(job_id, 1, index, body, bytes(32)) for index in range(count)]


async def test_everything_that_waits_goes_into_one_frame(autojump_clock: MockClock) -> None:
    acks = [Ack(number.to_bytes(16, "big"), 1) for number in range(100)]

    async with session() as one:
        for ack in acks:
            one.link.send(ack)

        assert await one.receive() == acks


async def test_a_small_message_passes_the_pieces_that_wait(autojump_clock: MockClock) -> None:
    async with session() as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.link.send_content, pieces(BIG, 100))
        await wait_all_tasks_blocked()
        one.link.send(Ack(SMALL, 1))
        frames_before = 0
        while Ack(SMALL, 1) not in await one.receive():
            frames_before += 1
        nursery.cancel_scope.cancel()

    assert frames_before <= 6, "only what the stream already held came first"


async def test_a_frame_holds_at_most_one_large_piece_and_jobs_take_turns(
    autojump_clock: MockClock,
) -> None:
    order: list[bytes] = []

    async with session() as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.link.send_content, pieces(BIG, 60))
        await wait_all_tasks_blocked()
        nursery.start_soon(one.link.send_content, pieces(OTHER, 10))
        while len(order) < 70:
            (piece,) = await one.receive()
            assert isinstance(piece, Chunk)
            order.append(piece.job_id)

    assert max(n for n, job_id in enumerate(order) if job_id == OTHER) < 50


async def test_pieces_of_one_job_stay_in_order(autojump_clock: MockClock) -> None:
    async with session() as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.link.send_content, [*pieces(BIG, 20), Ack(BIG, 1)])
        got: list[Message] = []
        while len(got) < 21:
            got += await one.receive()

    assert got == [*pieces(BIG, 20), Ack(BIG, 1)]


async def test_flush_waits_until_everything_is_on_its_way(autojump_clock: MockClock) -> None:
    async with session() as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.link.send_content, pieces(BIG, 10))
        await wait_all_tasks_blocked()
        is_flushed = trio.Event()

        async def flush() -> None:
            await one.link.flush()
            is_flushed.set()

        nursery.start_soon(flush)
        await wait_all_tasks_blocked()
        assert not is_flushed.is_set()
        for _ in range(10):
            await one.receive()
        await is_flushed.wait()


async def test_texts_that_one_frame_does_not_hold_go_in_several(autojump_clock: MockClock) -> None:
    long = [Refuse(SMALL, 1, "busy", "\N{SNOWMAN}" * 1_024) for _ in range(100)]

    async with session() as one:
        for _ in range(5):
            for refuse in long:
                one.link.send(refuse)
        got: list[Message] = []
        while len(got) < 500:
            got += await one.receive()

    assert got == long * 5


async def test_a_peer_that_does_not_read_loses_the_session(autojump_clock: MockClock) -> None:
    async with session() as one:
        for _ in range(MAX_SESSION_QUEUE + 1):
            one.link.send(Ack(SMALL, 1))

        assert not one.link.is_open
        assert one.link.why_ended == "the peer does not read"
        one.link.send(Ack(SMALL, 1))  # does nothing


async def test_a_peer_that_does_not_read_what_is_large_loses_the_session_earlier(
    autojump_clock: MockClock,
) -> None:
    fitting = MAX_SESSION_QUEUE_BYTES // BULK_CHUNK_BYTES

    async with session() as one:
        for piece in pieces(BIG, fitting):
            one.link.send(piece)
        assert one.link.is_open
        one.link.send(*pieces(BIG, 1))

        assert not one.link.is_open
        assert one.link.why_ended == "the peer does not read"


async def test_what_was_written_leaves_room_for_more(autojump_clock: MockClock) -> None:
    count = 2 * MAX_SESSION_QUEUE_BYTES // BULK_CHUNK_BYTES

    async with session() as one:
        for piece in pieces(BIG, count):
            one.link.send(piece)
            await one.receive()

        assert one.link.is_open


async def test_those_who_send_content_go_on_when_the_session_ends(
    autojump_clock: MockClock,
) -> None:
    async with session() as one, trio.open_nursery() as nursery:
        for job_id in (BIG, OTHER):
            nursery.start_soon(one.link.send_content, pieces(job_id, 100))
        await wait_all_tasks_blocked()
        one.link.close("enough")

    assert not one.link.is_open


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff not cbor",
        CODEC.encode([Ack(SMALL, 1)]),
        CODEC.encode([SessionHello(1), SessionHello(1)]),
    ],
)
async def test_what_is_no_session_ends_it_and_is_the_peers_fault(
    frame: bytes, autojump_clock: MockClock
) -> None:
    async with session(says_hello=False) as one:
        await one.far.send(frame)
        await wait_all_tasks_blocked()

        assert not one.link.is_open
        assert one.link.error is not None
        assert not one.taken


async def test_both_speak_the_lower_version(autojump_clock: MockClock) -> None:
    async with session(says_hello=False) as one:
        await one.send(SessionHello(7, ("telepathy",)), Ack(SMALL, 1))
        await wait_all_tasks_blocked()

        assert one.link.version == 1
        assert one.taken == [Ack(SMALL, 1)]


async def test_a_loopback_has_the_ends_of_a_stream(autojump_clock: MockClock) -> None:
    near, far = loopback_pair("12D3KooWself")
    await near.send(b"frame")
    await near.finish()

    assert near.peer_id == far.peer_id == "12D3KooWself"
    assert await far.receive() == b"frame"
    assert await far.receive() is None
    await near.reset()
    with pytest.raises(StreamLostError):
        await far.receive()
    with pytest.raises(StreamLostError):
        await far.send(b"x")
    await far.finish()
