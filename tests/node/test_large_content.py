"""Large inputs and outputs: what they cost in memory, and what they leave to the jobs beside
them.

Large content is hashed in a thread, for which no mocked clock waits: these tests run in real time.
"""

from __future__ import annotations

import tracemalloc
from typing import Final

import pytest
import trio

from protocols.job import CODEC, Accept, Chunk, Done, Failed, Lease, Message, Terms
from protocols.kept_outcomes import KeptOutcomes
from protocols.limits import BULK_CHUNK_BYTES, STREAM_WINDOW_BYTES
from protocols.pieces import Outgoing
from protocols.transport import Stream
from tests.support.hostile import inputs, raw_session, terms
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

MB: Final = 1 << 20


async def receive(stream: Stream) -> list[Message]:
    frame = await stream.receive()
    assert frame is not None
    return CODEC.decode(frame)


async def test_an_output_that_is_being_sent_is_not_held_twice() -> None:
    mesh = JobMesh()
    output = bytes(32 * MB)
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=lambda _: output))
    job = terms(1)

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        await stream.send(CODEC.encode([job.offer(1, 600_000), Accept(job.job_id, 1)]))
        await receive(stream)
        tracemalloc.start()
        await stream.send(CODEC.encode(inputs(job)))
        while not any(isinstance(message, Done) for message in await receive(stream)):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak_bytes < 4 * MB, "pieces are cut when they are sent"


async def test_an_output_that_is_given_up_while_it_is_sent_ends_with_the_word_that_it_is() -> None:
    mesh = JobMesh()
    outputs = {b"first": bytes(8 * MB), b"second": bytes(4 * MB)}
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=outputs.__getitem__))
    worker.worker._jobs._kept = KeptOutcomes(max_bytes=10 * MB)
    first, second = terms(1, b"first"), terms(2, b"second")
    got: list[Message] = []

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        for job, content in ((first, b"first"), (second, b"second")):
            start = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job, content)]
            await stream.send(CODEC.encode(start))
            while not any(isinstance(m, Chunk) and m.job_id == first.job_id for m in got):
                got += await receive(stream)  # it is on its way; of the rest we read nothing yet
        await until(lambda: worker.worker._jobs.kept_bytes == 4 * MB)  # the second one
        while not any(isinstance(m, Done) for m in got):
            got += await receive(stream)

    (failed,) = [message for message in got if isinstance(message, Failed)]
    assert (failed.job_id, failed.code) == (first.job_id, "outcome-dropped")
    assert failed.is_worker_fault
    assert (
        sum(len(m.body) for m in got if isinstance(m, Chunk) and m.job_id == first.job_id) < 8 * MB
    )
    assert [m.job_id for m in got if isinstance(m, Done)] == [second.job_id]


async def test_small_jobs_pass_a_large_output_behind_one_piece_a_frame() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    outputs = {b"large": bytes(16 * MB), b"small": b"done"}
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=outputs.__getitem__))
    large, small = terms(1, b"large"), terms(2, b"small")
    frames: list[list[Message]] = []

    async def read_until(kind: type[Chunk | Lease | Done], job: Terms) -> int:
        """Return how many frames came until one had such a message."""
        for count in range(1_000):
            frames.append(await receive(stream))
            if any(isinstance(m, kind) and m.job_id == job.job_id for m in frames[-1]):
                return count
        raise AssertionError("it never came")

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        start = [large.offer(1, 600_000), Accept(large.job_id, 1), *inputs(large, b"large")]
        await stream.send(CODEC.encode(start))
        await read_until(Chunk, large)
        await stream.send(CODEC.encode([small.offer(1, 600_000)]))
        waited = [await read_until(Lease, small)]
        await stream.send(CODEC.encode([Accept(small.job_id, 1), *inputs(small, b"small")]))
        waited.append(await read_until(Done, small))
        rest = await read_until(Done, large)

    on_the_wire = STREAM_WINDOW_BYTES // BULK_CHUNK_BYTES + 2
    assert max(waited) <= on_the_wire, "only what the stream already held came first"
    assert rest > 200, "the large one was still on its way"
    pieces = [sum(isinstance(message, Chunk) for message in frame) for frame in frames]
    assert max(pieces) <= 2, "one large piece, and at most a small job's whole output"


async def test_an_output_is_sent_only_as_long_as_its_attempt_is_the_latest() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=lambda _: bytes(16 * MB)))
    job = terms(1)
    fences: list[int] = []

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        start = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job)]
        await stream.send(CODEC.encode(start))
        while not any(isinstance(message, Chunk) for message in await receive(stream)):
            pass
        await stream.send(CODEC.encode([job.offer(2, 600_000), Accept(job.job_id, 2)]))
        with trio.fail_after(60):
            while not fences or fences[-1] != -2:
                for message in await receive(stream):
                    if isinstance(message, Chunk):
                        fences.append(message.fence)
                    elif isinstance(message, Done):
                        fences.append(-message.fence)

    assert fences.count(1) < 30, "what was on its way when the later offer came"
    assert fences.count(2) == 16 * MB // BULK_CHUNK_BYTES
    assert fences[-1] == -2


@pytest.mark.parametrize("is_output", [False, True], ids=["input", "output"])
async def test_content_that_is_cut_off_in_the_middle_goes_on_from_there(is_output: bool) -> None:
    mesh = JobMesh()
    content = bytes(range(256)) * (16 * MB // 256)
    submitter = mesh.add("submitter")
    output = content if is_output else b"small"
    runners = FakeRunnerPool(output_of=lambda _: output)
    worker = mesh.add("worker", runners=runners)
    sender, receiver = (worker, submitter) if is_output else (submitter, worker)
    way = sender.peer_id, receiver.peer_id
    mesh.network.reset_after(*way, 10 * MB)

    async with mesh.running():
        with trio.fail_after(60):
            result = await submitter.submitter.run(spec(input=b"" if is_output else content))

    assert (result.output, result.attempts) == (output, 2)
    assert runners.finished == 1
    assert runners.requests[0].input == (b"" if is_output else content)
    assert mesh.network.sent_bytes[way] < 17 * MB, "only what was on the wire went twice"
    assert not [node.peer_id for node in mesh.nodes if node.recorder.reports]


async def test_the_second_delivery_begins_with_the_piece_behind_the_last_one_that_came() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FakeRunnerPool(output_of=lambda _: bytes(4 * MB)))
    job = terms(1)
    digests = Outgoing.cut(job.output_salt, bytes(4 * MB)).digests
    came: list[Chunk] = []

    async def take(count: int) -> None:
        while len(came) < count:
            came.extend(m for m in await receive(stream) if isinstance(m, Chunk))

    async with mesh.running():
        stream = await raw_session(submitter, worker)
        start = [job.offer(1, 600_000), Accept(job.job_id, 1), *inputs(job)]
        await stream.send(CODEC.encode(start))
        await take(23)
        await stream.reset()
        stream = await raw_session(submitter, worker)
        accept = Accept(job.job_id, 2, 23, digests[22])
        await stream.send(CODEC.encode([job.offer(2, 600_000), accept]))
        await take(64)

    assert [chunk.index for chunk in came] == list(range(64))
    assert [chunk.fence for chunk in came] == [1] * 23 + [2] * 41
    assert came[-1].digest == digests[-1]
