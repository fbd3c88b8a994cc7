"""Whatever a submitter hears of a worker's run that came to nothing, it has the record of it, and
the report of why, copied from there: the worker may be gone for good before anybody else has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from trio.testing import MockClock

from node.runner.kinds import embed
from protocols.cid import CID
from protocols.errors import JobFailed
from protocols.job import Ack, Cancel, Failed, Message, Offer
from protocols.keys import PeerId
from protocols.limits import MAX_STRAY_RESULTS
from protocols.report import ExceptionInfo, Frame
from tests.support.api import embedders
from tests.support.hostile import a_lease, hostile
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until

Named = list[tuple[PeerId, CID]]
RUN, REPORT = CID.of(b"a run"), CID.of(b"a report")


def damaged() -> JobFailed:
    frames = (Frame("node.runner.files", "ModelFiles.check", 40),)
    seen = (ExceptionInfo("ModelDamagedError", "node.manifest", "model is damaged", frames),)
    return JobFailed("its files are not what they were", code="model-damaged", exceptions=seen)


def named_by(submitter: JobNode) -> Named:
    """Have what a submitter wants copied told here."""
    named: Named = []
    submitter.ledger.on_named = lambda worker, record: named.append((worker, record))
    return named


def made_by(worker: JobNode, *kinds: str) -> Named:
    records = [record for kind in kinds for record in worker.recorder.of_kind(kind)]
    return [(worker.peer_id, CID.of(record.encode())) for record in records]


def failed(job_id: bytes) -> Failed:
    return Failed(job_id, 1, "model-damaged", "it broke", True, bytes(RUN), bytes(REPORT))


def is_offer(message: Message) -> bool:
    return isinstance(message, Offer)


def is_ack(message: Message) -> bool:
    return isinstance(message, Ack)


async def test_a_failed_run_is_named_with_the_report_of_why(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter, broken = (
        mesh.add("submitter"),
        mesh.add("worker", runners=FakeRunnerPool(error=damaged())),
    )
    named = named_by(submitter)

    async with mesh.running():
        with pytest.raises(JobFailed):
            await submitter.submitter.run(spec())

    assert len(named) == 2
    assert named == made_by(broken, "job.run", "error.report")


async def test_a_run_whose_output_was_none_is_named(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    liar = mesh.add("worker", runners=embedders(output_of=lambda _: b"garbage"))
    named = named_by(submitter)

    async with mesh.running():
        with pytest.raises(JobFailed, match="its output is none"):
            await submitter.submitter.run(spec(input=embed.encode_input(["one"]), items=1))

    assert len(named) == 1
    assert named == made_by(liar, "job.run")


async def test_a_run_that_failed_after_its_job_was_over_is_named(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    def fail_when_it_is_over(message: Message) -> Sequence[Message]:
        if isinstance(message, Offer):
            return [a_lease(message)]
        return [failed(message.job_id)] if isinstance(message, Cancel) else []

    late, told = hostile(mesh, fail_when_it_is_over)
    named = named_by(submitter)

    async with mesh.running():
        with pytest.raises(JobFailed) as error:
            await submitter.submitter.run(spec(budget_ms=5_000))
        await until(lambda: any(map(is_ack, told)))

    assert error.value.code == "expired"
    assert named == [(late.peer_id, RUN), (late.peer_id, REPORT)]


async def test_failures_of_jobs_that_nobody_submitted_have_little_sought(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    def flood(message: Message) -> Sequence[Message]:
        numbers = range(1_000, 1_000 + 2 * MAX_STRAY_RESULTS)
        return [failed(number.to_bytes(16, "big")) for number in numbers if is_offer(message)]

    flooder, told = hostile(mesh, flood)
    named = named_by(submitter)

    async with mesh.running():
        with pytest.raises(Exception, match="no-answer"):
            await submitter.submitter.run(spec(peer=flooder.peer_id))
        await until(lambda: sum(map(is_ack, told)) == 2 * MAX_STRAY_RESULTS)

    assert len(named) == 2 * MAX_STRAY_RESULTS, "a run and a report each"
