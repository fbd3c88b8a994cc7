import pytest
import trio
from trio.testing import MockClock

from node.errors import InputError, NoWorkerError
from node.job import JobResult, Progress
from node.submitted_job import Listener
from peer.journal import JournalFullError
from protocols.cid import CID
from protocols.errors import JobFailed, Refused
from protocols.limits import DRAIN_S, MAX_JOB_INPUT_BYTES
from protocols.session import JobState
from tests.support.jobs import JobMesh, JobNode, spec
from tests.support.runners import FakeModels, FakeRunnerPool
from tests.support.transports import until


def a_pair(runners: FakeRunnerPool | None = None) -> tuple[JobMesh, JobNode, JobNode]:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, mesh.add("worker", runners=runners)


async def test_a_job_runs_on_another_node_and_both_record_it(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert result.output == b"SOME TEXT"
    assert result.worker == worker.peer_id
    assert (result.fence, result.attempts) == (1, 1)
    assert result.execution["engine"] == "fake"
    assert result.timings["busy_ms"] == 1.5
    (submitted,) = submitter.recorder.of_kind("job.submitted")
    (accepted,) = submitter.recorder.of_kind("job.accepted")
    (run,) = worker.recorder.of_kind("job.run")
    assert submitted.generated == ((result.input_cid, "input"),)
    assert [role for _, role in run.used] == ["model", "input"]
    assert (result.input_cid, "input") in run.used
    assert run.generated == ((result.output_cid, "output"),)
    assert run.attributes["submitter"] == submitter.peer_id
    assert run.attributes["precision"] == "fp32"
    assert accepted.used == ((result.output_cid, "output"),)
    assert accepted.informed_by == (result.submitted_cid, result.record_cid)
    assert CID.of(run.encode()) == result.record_cid
    assert CID.of(accepted.encode()) == result.accepted_cid
    assert not submitter.recorder.reports
    assert not worker.recorder.reports


async def test_a_node_alone_does_its_own_jobs(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    node = mesh.add("submitter", "worker")

    async with mesh.running():
        result = await node.submitter.run(spec())
        large = await node.submitter.run(spec(2, input=b"x" * 300_000))

    assert result.worker == large.worker == node.peer_id
    assert result.output == b"SOME TEXT"
    assert large.output == b"X" * 300_000


async def test_progress_is_told_in_order(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=2.0))
    told: list[Progress] = []

    async with mesh.running():
        await submitter.submitter.run(spec(items=5), Listener(told.append))

    states = list(dict.fromkeys(progress.state for progress in told))
    assert states == [JobState.OFFERED, JobState.LEASED, JobState.RUNNING]
    done = [progress.items_done for progress in told if progress.state is JobState.RUNNING]
    assert done[:5] == [0, 1, 2, 3, 4], "the last may be overtaken by the result"
    assert told[-1].worker == worker.peer_id


async def test_on_an_open_session_a_small_input_goes_along_with_its_offer(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair(FakeRunnerPool(pace_s=2.0))
    told: list[Progress] = []

    async with mesh.running():
        await submitter.submitter.run(spec())
        result = await submitter.submitter.run(spec(2, items=5), Listener(told.append))

    states = list(dict.fromkeys(progress.state for progress in told))
    assert states == [JobState.OFFERED, JobState.RUNNING], "nothing was leased before"
    assert result.attempts == 1


async def test_large_inputs_and_outputs_arrive_whole(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair(FakeRunnerPool(output_of=lambda content: content * 2))
    content = bytes(range(256)) * 2_000

    async with mesh.running():
        result = await submitter.submitter.run(spec(input=content))

    assert result.output == content * 2


async def test_an_empty_input_and_an_empty_output_are_fine(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running():
        result = await submitter.submitter.run(spec(input=b"", items=0))

    assert result.output == b""


async def test_many_jobs_share_one_session(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), trio.open_nursery() as nursery:
        for number in range(1, 101):
            nursery.start_soon(submitter.submitter.run, spec(number))
        await until(lambda: worker.runners.finished == 100)
        assert submitter.sessions.open_count() == worker.sessions.open_count() == 1

    assert len(submitter.recorder.of_kind("job.accepted")) == 100
    assert worker.worker.unfinished == 0


async def test_two_nodes_use_one_session_both_ways(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    one, other = mesh.add(), mesh.add()

    async with mesh.running():
        there = await one.submitter.run(spec(1, peer=other.peer_id))
        back = await other.submitter.run(spec(1, peer=one.peer_id))
        assert one.sessions.open_count() == other.sessions.open_count() == 1

    assert (there.worker, back.worker) == (other.peer_id, one.peer_id)


async def test_two_nodes_that_open_sessions_to_each_other_at_once_both_get_their_results(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    mesh.network.delay_s = (0.01, 0.02)
    one, other = mesh.add(), mesh.add()

    async with mesh.running(), trio.open_nursery() as nursery:
        for number in range(1, 11):
            nursery.start_soon(one.submitter.run, spec(number, peer=other.peer_id))
            nursery.start_soon(other.submitter.run, spec(number, peer=one.peer_id))

    assert one.runners.finished == other.runners.finished == 10


async def test_the_better_lease_gets_the_job(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", runners=FakeRunnerPool(estimate=5.0))
    quick = mesh.add("worker", runners=FakeRunnerPool(estimate=1.0))

    async with mesh.running():
        results = [await submitter.submitter.run(spec(number)) for number in range(1, 6)]

    assert {result.worker for result in results} == {quick.peer_id}


async def test_a_named_peer_gets_the_job(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add()
    named = [mesh.add("worker", runners=FakeRunnerPool(estimate=9.0)) for _ in range(3)][1]

    async with mesh.running():
        result = await submitter.submitter.run(spec(peer=named.peer_id))

    assert result.worker == named.peer_id


async def test_when_nobody_can_do_it_the_error_says_what_was_looked_for_and_why_not(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running():
        with pytest.raises(NoWorkerError) as no_model:
            await submitter.submitter.run(spec(model="other"))
        with pytest.raises(NoWorkerError) as no_precision:
            await submitter.submitter.run(spec(precision="int4"))
        with pytest.raises(NoWorkerError, match="is not known here"):
            await submitter.submitter.run(spec(peer="12D3KooWnobody"))

    assert no_model.value.message == "no worker offers the model other"
    assert no_model.value.hint == "models there are: minilm (embed)"
    assert "runs minilm in fp32, bf16 only" in no_precision.value.message
    assert not submitter.recorder.records, "nothing was offered"


async def test_a_refusal_of_everyone_names_each_reason(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [mesh.add("worker", models=FakeModels()) for _ in range(4)]

    async with mesh.running():
        with pytest.raises(NoWorkerError) as error:
            await submitter.submitter.run(spec())
        with pytest.raises(Refused) as refused:
            await submitter.submitter.run(spec(2, peer=workers[0].peer_id))

    for worker in workers:
        assert f"{worker.peer_id}: unknown-model (model minilm is not" in error.value.message
    assert refused.value.code == "unknown-model"


async def test_a_busy_worker_is_asked_again_within_the_budget(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=1.0, estimate=3.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(submitter.submitter.run, spec(number))

    assert worker.runners.finished == 3


async def test_a_job_that_would_take_longer_than_its_budget_is_refused(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(estimate=30.0))

    async with mesh.running():
        with pytest.raises(Refused, match="more than its budget") as refused:
            await submitter.submitter.run(spec(budget_ms=10_000, peer=worker.peer_id))

    assert refused.value.code == "expired"


async def test_a_job_whose_time_runs_out_is_stopped_on_its_worker(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running():
        with pytest.raises(JobFailed) as failed:
            await submitter.submitter.run(spec(budget_ms=8_000))
        await until(lambda: worker.runners.cancelled == 1)
        await until(lambda: len(worker.recorder.of_kind("job.run")) == 1)

    assert failed.value.code == "expired"
    assert worker.recorder.of_kind("job.run")[0].status in ("expired", "cancelled")
    assert not worker.recorder.reports


async def test_a_job_that_the_disk_takes_no_record_of_is_stopped_and_says_so(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(JournalFullError):
                await submitter.submitter.run(spec())

        nursery.start_soon(run)
        await until(lambda: worker.runners.running == 1)
        submitter.recorder.refusing[0](JournalFullError("the disk is full"))
        await until(lambda: worker.runners.cancelled == 1)

    (ended,) = submitter.recorder.of_kind("job.ended")
    assert ended.informed_by == (), "nothing on record names a record that is not there"


@pytest.mark.parametrize("is_repeated", [False, True])
async def test_a_result_is_not_accepted_when_the_disk_lost_the_record_of_its_submission(
    is_repeated: bool, autojump_clock: MockClock
) -> None:
    mesh, submitter, worker = a_pair()

    async def lose_the_record(_: JobResult) -> None:
        submitter.recorder.refusing[-1](JournalFullError("the disk is full"))

    async with mesh.running():
        if is_repeated:
            await submitter.submitter.run(spec())
        with pytest.raises(JournalFullError):
            await submitter.submitter.run(spec(), on_taken=lose_the_record)
        before = submitter.recorder.of_kind("job.accepted" if not is_repeated else "job.repeated")
        again = await submitter.submitter.run(spec())

    assert before == []
    assert again.accepted_cid is not None
    assert worker.runners.finished == 1 + is_repeated, "the worker had kept its outcome"


async def test_cancelling_a_job_stops_its_run(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(JobFailed) as failed:
                await submitter.submitter.run(spec())
            assert failed.value.code == "cancelled"

        nursery.start_soon(run)
        await until(lambda: worker.runners.running == 1)
        assert submitter.submitter.cancel(spec().job_id)
        await until(lambda: worker.runners.cancelled == 1)
        await until(lambda: worker.worker.unfinished == 0)
        await until(lambda: len(worker.recorder.of_kind("job.run")) == 1)

    assert not submitter.submitter.cancel(spec().job_id)
    assert worker.recorder.of_kind("job.run")[0].status == "cancelled"


async def test_a_client_that_goes_away_cancels_its_job(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running():
        with trio.move_on_after(3):
            await submitter.submitter.run(spec())
        await until(lambda: worker.runners.cancelled == 1)


async def test_the_same_job_may_not_be_submitted_twice_at_once(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=1.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec())
        await until(lambda: worker.runners.running == 1)
        with pytest.raises(Refused) as refused:
            await submitter.submitter.run(spec())

    assert refused.value.code == "already-running"


@pytest.mark.parametrize(
    "wrong",
    [{"job_id": b"short"}, {"input": bytes(MAX_JOB_INPUT_BYTES + 1)}, {"budget_ms": 0}],
)
async def test_a_job_that_cannot_be_is_refused_before_anything_is_sent(
    wrong: dict[str, object],
) -> None:
    _, submitter, _ = a_pair()

    with pytest.raises(InputError):
        await submitter.submitter.run(spec(**wrong))


async def test_draining_finishes_what_runs_and_refuses_the_rest(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=2.0))

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec())
        await until(lambda: worker.runners.running == 1)
        began_at = trio.current_time()
        nursery.start_soon(worker.worker.drain)
        await trio.sleep(1)
        with pytest.raises(Refused) as refused:
            await submitter.submitter.run(spec(2, peer=worker.peer_id))
        await until(lambda: len(submitter.recorder.of_kind("job.accepted")) == 1)

    assert refused.value.code == "draining"
    assert trio.current_time() - began_at < DRAIN_S


async def test_draining_gives_up_on_a_job_that_does_not_end(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, spec())
        await until(lambda: worker.runners.running == 1)
        with trio.fail_after(DRAIN_S + 1):
            await worker.worker.drain()
        assert worker.worker.unfinished == 1
        nursery.cancel_scope.cancel()


async def test_equal_inputs_have_equal_commitments_and_an_output_keeps_its_name_as_an_input(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running():
        first = await submitter.submitter.run(spec(1))
        again = await submitter.submitter.run(spec(2))
        further = await submitter.submitter.run(spec(3, input=first.output))

    assert first.input_cid == again.input_cid
    assert first.output_cid != again.output_cid
    assert further.input_cid == first.output_cid


async def test_neither_input_nor_output_is_in_any_record(autojump_clock: MockClock) -> None:
    secret = b"the canary sings at dawn"
    mesh, submitter, worker = a_pair()

    async with mesh.running():
        await submitter.submitter.run(spec(input=secret))

    for node in (submitter, worker):
        assert node.recorder.records
        for record in node.recorder.records:
            assert secret not in record.encode()
            assert secret.upper() not in record.encode()
