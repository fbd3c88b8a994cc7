"""Peers that speak the session protocol as a test wants them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocols.job import CODEC, Input, Lease, Message, Offer, SessionHello, Terms
from protocols.membership import SESSION_PROTOCOL
from protocols.pieces import Outgoing
from protocols.transport import Stream
from tests.support.jobs import JobMesh, JobNode

Script = Callable[[Message], Sequence[Message]]


def a_lease(offer: Message) -> Lease:
    assert isinstance(offer, Offer)
    return Lease(offer.job_id, offer.fence, 0, 15_000)


def hostile(mesh: JobMesh, script: Script) -> tuple[JobNode, list[Message]]:
    """A worker that answers every message as ``script`` says, and what it was told."""
    node = mesh.add("worker", speed=1e8)
    told: list[Message] = []

    async def handle(stream: Stream) -> None:
        await stream.send(CODEC.encode([SessionHello(1)]))
        while (frame := await stream.receive()) is not None:
            for message in CODEC.decode(frame):
                told.append(message)
                for answer in script(message):
                    await stream.send(CODEC.encode([answer]))

    node.transport.serve(SESSION_PROTOCOL, handle)
    node.directory.may = lambda *_: False  # type: ignore[method-assign]
    return node, told


async def raw_session(submitter: JobNode, worker: JobNode) -> Stream:
    await submitter.transport.dial(worker.peer_id, worker.transport.addresses)
    stream = await submitter.transport.open_stream(worker.peer_id, SESSION_PROTOCOL)
    await stream.send(CODEC.encode([SessionHello(1)]))
    frame = await stream.receive()
    assert frame is not None
    assert CODEC.decode(frame) == [SessionHello(1)]
    return stream


def terms(number: int, content: bytes = b"text") -> Terms:
    cid = bytes(Outgoing.cut(b"i" * 16, content).cid)
    job_id = number.to_bytes(16, "big")
    size = len(content)
    return Terms(job_id, "embed", "minilm", "auto", 1, size, cid, b"i" * 16, b"o" * 16)


async def answers(stream: Stream, count: int) -> list[Message]:
    got: list[Message] = []
    while len(got) < count:
        frame = await stream.receive()
        assert frame is not None
        got += CODEC.decode(frame)
    return got


def inputs(job: Terms, content: bytes = b"text") -> list[Message]:
    """The whole input of a job of ``terms``."""
    pieces = Outgoing.cut(b"i" * 16, content).pieces()
    return [Input(job.job_id, 1, p.index, p.body, p.digest) for p in pieces]
