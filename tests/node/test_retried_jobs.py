from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from node.accepted import AcceptedJobs
from node.job import JobResult, JobSpec, Progress
from node.submissions import Submissions
from node.submit import NOBODY
from node.submitted_job import Listener
from protocols.cid import CID
from protocols.errors import CoveyError, Refused
from protocols.job import JOB_ID_BYTES
from protocols.journal import Entry, RecordBody
from protocols.taking import run_of, worker_of
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.records import MemoryJournal
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until


def a_pair(runners: FakeRunnerPool | None = None) -> tuple[JobMesh, JobNode, JobNode]:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, mesh.add("worker", runners=runners)


def restarted(node: JobNode) -> AcceptedJobs:
    """What a node remembers that starts with this one's journal."""
    journal = MemoryJournal()
    for sequence, record in enumerate(node.recorder.records):
        body = RecordBody(1, sequence, record.encode()).encode()
        journal.append_soon(Entry.RECORD, body)
    return AcceptedJobs(journal)


async def test_a_job_that_was_accepted_runs_again_under_a_new_fence_and_is_not_accepted_again(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running():
        first = await submitter.submitter.run(spec())
        submitter.submitter._accepted = restarted(submitter)
        submitter.submitter._past._past.clear()
        again = await submitter.submitter.run(spec())

    (accepted,) = submitter.recorder.of_kind("job.accepted")
    (repeated,) = submitter.recorder.of_kind("job.repeated")
    assert again.output == first.output
    assert again.accepted_cid == first.accepted_cid == CID.of(accepted.encode())
    assert again.fence > first.fence
    assert repeated.informed_by == (first.accepted_cid, again.record_cid)
    assert repeated.attributes["job_id"] == spec().job_id
    assert worker.runners.finished == 2
    for record, result in ((accepted, first), (repeated, again)):
        assert worker_of(record.kind, record.attributes) == worker.peer_id
        assert run_of(record.informed_by) == result.record_cid


@pytest.mark.parametrize("change", [{"input": b"other"}, {"model": "other"}, {"kind": "other"}])
async def test_the_id_of_an_accepted_job_is_no_other_jobs(
    autojump_clock: MockClock, change: dict[str, object]
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running():
        await submitter.submitter.run(spec())
        with pytest.raises(
            Exception, match=r"in use for another job|no worker (took|offers)"
        ) as error:
            await submitter.submitter.run(spec(**change))

    assert isinstance(error.value, Refused) == ("input" in change)
    assert len(submitter.recorder.of_kind("job.accepted")) == 1


async def test_two_clients_with_one_job_id_wait_for_one_run(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=1.0))
    results: list[JobResult] = []
    seen: list[list[Progress]] = [[], []]

    async with mesh.running(), trio.open_nursery() as nursery:
        submissions = Submissions(submitter.submitter, submitter.ledger.report, nursery)

        async def client(number: int) -> None:
            results.append(await submissions.run(spec(), Listener(seen[number].append)))

        nursery.start_soon(client, 0)
        await until(lambda: worker.runners.running == 1)
        nursery.start_soon(client, 1)

    assert results[0] == results[1]
    assert worker.runners.finished == 1
    assert len(submitter.recorder.of_kind("job.accepted")) == 1
    assert seen[1]


async def test_a_job_goes_on_for_the_client_that_stays_and_ends_with_the_last(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:
        submissions = Submissions(submitter.submitter, submitter.ledger.report, nursery)
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def client(scope: trio.CancelScope) -> None:
            with scope:
                await submissions.run(spec(), NOBODY)

        for scope in scopes:
            nursery.start_soon(client, scope)
        await until(lambda: worker.runners.running == 1)
        scopes[0].cancel()
        await trio.sleep(5)
        assert worker.runners.running == 1
        scopes[1].cancel()
        await until(lambda: worker.runners.cancelled == 1)


async def test_a_job_id_in_use_is_refused_for_another_job(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=1.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        submissions = Submissions(submitter.submitter, submitter.ledger.report, nursery)
        nursery.start_soon(submissions.run, spec(), NOBODY)
        await until(lambda: worker.runners.running == 1)
        with pytest.raises(Refused) as refused:
            await submissions.run(spec(input=b"other"), NOBODY)

    assert refused.value.code == "other-specification"


async def test_what_went_wrong_is_told_to_every_client(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), trio.open_nursery() as nursery:
        submissions = Submissions(submitter.submitter, submitter.ledger.report, nursery)
        told: list[str] = []

        async def client() -> None:
            with pytest.raises(Exception, match="no worker offers the model other") as error:
                await submissions.run(spec(model="other"), NOBODY)
            told.append(str(error.value))

        nursery.start_soon(client)
        nursery.start_soon(client)

    assert len(told) == 2
    assert JOB_ID_BYTES == 16


async def test_a_fault_of_our_own_is_told_and_reported_and_ends_nothing(
    autojump_clock: MockClock,
) -> None:
    class Faulty:
        async def run(self, spec: JobSpec, listener: Listener) -> JobResult:
            raise KeyError("ours")

    node = JobMesh().add()

    async with trio.open_nursery() as nursery:
        submissions = Submissions(Faulty(), node.ledger.report, nursery)
        with pytest.raises(CoveyError) as error:
            await submissions.run(spec(), NOBODY)

    assert error.value.code == "node-fault"
    assert len(node.recorder.of_kind("error.report")) == 1
