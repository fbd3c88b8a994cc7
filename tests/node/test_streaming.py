"""Outputs that their clients see grow."""

from dataclasses import dataclass, field
from itertools import pairwise

import trio
from trio.testing import MockClock

from node.submissions import Submissions
from node.submitted_job import Listener
from protocols.session import Grown
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

CONTENT = b"one two three four five six seven eight nine ten"


@dataclass
class Client:
    """What a client was told, as it would put it together."""

    output: bytes = b""
    restarts: int = 0
    steps: list[bytes] = field(default_factory=list)

    @property
    def listener(self) -> Listener:
        return Listener(lambda _: None, self.take)

    def take(self, grown: Grown) -> None:
        self.restarts += grown.is_anew
        self.output = grown.body if grown.is_anew else self.output + grown.body
        self.steps.append(self.output)


def emitting(**settings: object) -> FakeRunnerPool:
    return FakeRunnerPool(emits=True, pace_s=1.0, **settings)  # type: ignore[arg-type]


async def test_an_output_is_seen_growing_and_comes_to_the_result(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=emitting())
    client = Client()

    async with mesh.running():
        result = await submitter.submitter.run(spec(input=CONTENT, items=10), client.listener)

    assert client.output == result.output == CONTENT.upper()
    assert len(client.steps) >= 10
    assert client.restarts == 0


async def test_what_is_emitted_at_once_is_sent_in_pieces_of_the_usual_size(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=emitting())
    client = Client()

    async with mesh.running():
        job = spec(input=b"x" * 300_000, items=2)
        result = await submitter.submitter.run(job, client.listener)

    assert client.output == result.output == b"X" * 300_000
    assert len(client.steps) == 6, "three pieces for each half"


async def test_another_worker_that_computes_the_same_goes_on_where_the_first_was_lost(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [mesh.add("worker", runners=emitting()) for number in range(2)]
    client = Client()

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec(input=CONTENT, items=10), client.listener)
        await until(lambda: len(client.steps) == 5)
        (first,) = [worker for worker in workers if worker.runners.running]
        mesh.network.partition(submitter.peer_id, first.peer_id)

    assert client.output == CONTENT.upper()
    assert client.restarts == 0
    assert all(after.startswith(before) for before, after in pairwise(client.steps))


async def test_another_worker_that_computes_otherwise_makes_its_client_begin_again(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    upper = mesh.add("worker", runners=emitting())
    swapped = mesh.add("worker", runners=emitting(output_of=lambda content: b"ONE " + content[4:]))
    client = Client()

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec(input=CONTENT, items=10), client.listener)
        await until(lambda: len(client.steps) == 5)
        first, second = (upper, swapped) if upper.runners.running else (swapped, upper)
        mesh.network.partition(submitter.peer_id, first.peer_id)

    assert client.output == second.runners.output_of(CONTENT)
    assert client.restarts == 1


async def test_a_session_that_is_found_again_repeats_nothing_to_the_client(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=emitting())
    client = Client()

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec(input=CONTENT, items=10), client.listener)
        await until(lambda: len(client.steps) == 5)
        mesh.network.reset(submitter.peer_id, worker.peer_id)

    assert client.output == CONTENT.upper()
    assert client.restarts == 0
    assert worker.runners.finished == 1


async def test_a_session_that_breaks_while_an_output_grows_sends_no_piece_of_it_again(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=emitting())
    way = worker.peer_id, submitter.peer_id
    client = Client()

    async with mesh.running(), trio.open_nursery() as nursery:
        job = spec(input=bytes(range(97, 123)) * 40_000, items=10)
        nursery.start_soon(submitter.submitter.run, job, client.listener)
        await until(lambda: len(client.steps) >= 9)
        mesh.network.reset(*way)

    assert client.output == job.input.upper()
    assert client.restarts == 0
    assert mesh.network.sent_bytes[way] < len(job.input) + 100_000, "one piece less than twice"
    assert worker.runners.finished == 1


async def test_a_client_that_comes_later_sees_all_of_the_output(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=emitting())
    first, second = Client(), Client()

    async with mesh.running(), trio.open_nursery() as nursery:
        submissions = Submissions(submitter.submitter, submitter.ledger.report, nursery)
        nursery.start_soon(submissions.run, spec(input=CONTENT, items=10), first.listener)
        await until(lambda: len(first.steps) == 5)
        await submissions.run(spec(input=CONTENT, items=10), second.listener)

    assert second.output == first.output == CONTENT.upper()
