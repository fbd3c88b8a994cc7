"""Peers that speak ``/covey/session/1`` by hand, and say what no honest node would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from protocols.job import CODEC, Accept, Input, Lease, Message, Offer, Renew, SessionHello, Terms
from protocols.limits import LEASE_RENEW_S
from protocols.membership import SESSION_PROTOCOL
from protocols.pieces import Outgoing
from protocols.transport import Stream
from tests.support.jobs import JobMesh, JobNode

Script = Callable[[Message], Sequence[Message]]


def a_lease(offer: Message) -> Lease:
    assert isinstance(offer, Offer)
    return Lease(offer.job_id, offer.fence, 0, 15_000)


def hostile(
    mesh: JobMesh, script: Script, *, renews: bool = False
) -> tuple[JobNode, list[Message]]:
    """A worker that answers every message as ``script`` says, and what it was told. If it renews,
    it says for ever that it lives and has done nothing, of every job that it was given.
    """
    node = mesh.add("worker", speed=1e8)
    told: list[Message] = []

    async def handle(stream: Stream) -> None:
        await stream.send(CODEC.encode([SessionHello(1)]))
        async with trio.open_nursery() as nursery:
            while (frame := await stream.receive()) is not None:
                for message in CODEC.decode(frame):
                    told.append(message)
                    for answer in script(message):
                        await stream.send(CODEC.encode([answer]))
                    if renews and isinstance(message, Accept):
                        nursery.start_soon(renew_for_ever, stream, message)
            nursery.cancel_scope.cancel()

    node.transport.serve(SESSION_PROTOCOL, handle)
    node.directory.may = lambda *_: False  # type: ignore[method-assign]
    return node, told


async def renew_for_ever(stream: Stream, job: Accept) -> None:
    while True:
        await stream.send(CODEC.encode([Renew(job.job_id, job.fence, 0, 3)]))
        await trio.sleep(LEASE_RENEW_S)


async def raw_session(submitter: JobNode, worker: JobNode) -> Stream:
    await submitter.transport.dial(worker.peer_id, worker.transport.addresses)
    stream = await submitter.transport.open_stream(worker.peer_id, SESSION_PROTOCOL)
    await stream.send(CODEC.encode([SessionHello(1)]))
    frame = await stream.receive()
    assert frame is not None
    assert CODEC.decode(frame) == [SessionHello(1)]
    return stream


def terms(
    number: int, content: bytes = b"text", *, kind: str = "embed", model: str = "minilm"
) -> Terms:
    cid = bytes(Outgoing.cut(b"i" * 16, content).cid)
    job_id = number.to_bytes(16, "big")
    size = len(content)
    return Terms(job_id, kind, model, "auto", 1, size, cid, b"i" * 16, b"o" * 16)


def start_of(job: Terms, content: bytes = b"text", fence: int = 1) -> list[Message]:
    """What follows a lease."""
    pieces = Outgoing.cut(b"i" * 16, content).pieces()
    inputs = [Input(job.job_id, fence, p.index, p.body, p.digest) for p in pieces]
    return [Accept(job.job_id, fence), *inputs]


async def answers(stream: Stream, count: int) -> list[Message]:
    got: list[Message] = []
    while len(got) < count:
        frame = await stream.receive()
        assert frame is not None
        got += CODEC.decode(frame)
    return got
