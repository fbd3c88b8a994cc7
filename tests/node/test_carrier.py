"""Jobs that a node has promised to do are done, whatever happens to it and to its workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.carrier import MAX_CARRIED, Carrier
from node.errors import UnknownError
from node.kept_jobs import JobEnd, KeptJobs, Promise
from node.submitted_job import Listener
from protocols.errors import JobFailed, Refused
from protocols.session import Grown
from tests.support.carrying import a_pair, carrier_of, carrying
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import until


async def test_a_kept_job_is_done_and_its_result_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        assert await carrier.submit(spec()) is Promise.NEW
        end = await carrier.wait(spec().job_id)

    (accepted,) = submitter.recorder.of_kind("job.accepted")
    assert (end.state, end.error) == ("done", None)
    assert end.result is not None
    assert end.result["worker"] == worker.peer_id
    assert end.result["accepted_cid"]
    assert KeptJobs(tmp_path).output(spec().job_id)
    assert end.why is not None
    assert "result was taken" in end.why["candidates"][0]["answer"]
    assert accepted.attributes["worker"] == worker.peer_id


async def test_a_job_waits_for_a_worker_and_says_for_what(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(budget_ms=3_600_000))
        await trio.sleep(100)
        reason = carrier.reason(spec().job_id)
        worker = mesh.add("worker")
        mesh.introduce()
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            end = await carrier.wait(spec().job_id)
            nursery.cancel_scope.cancel()

    assert reason is not None
    assert "no worker is known" in reason.message
    assert end.state == "done"


async def test_a_job_that_nobody_takes_expires_with_the_reason(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    moments = iter(range(0, 10**12, 20_000_000))
    object.__setattr__(submitter.effects, "now_us", lambda: next(moments))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec(budget_ms=60_000))
        end = await carrier.wait(spec().job_id)

    assert end.state == "expired"
    assert end.error is not None
    assert "no worker is known" in end.error["message"]


async def test_the_next_daemon_goes_on_with_what_was_promised(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runners = FakeRunnerPool(hold=True)
    mesh, submitter, worker = a_pair(runners)

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(spec())
            await until(lambda: worker.runners.running == 1)
        runners.hold = False
        async with carrying(submitter, tmp_path) as carrier:
            end = await carrier.wait(spec().job_id)
            log = carrier.kept.log(spec().job_id)

    assert end.state == "done"
    assert len(submitter.recorder.of_kind("job.accepted")) == 1
    assert "resumed after a restart" in [step["what"] for step in log]


async def test_a_job_that_was_accepted_before_a_crash_is_not_run_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(spec())
            before = await carrier.wait(spec().job_id)
        (tmp_path / spec().job_id.hex() / "end.json").unlink()  # the crash came in between
        async with carrying(submitter, tmp_path) as carrier:
            after = await carrier.wait(spec().job_id)

    assert worker.runners.finished == 1
    assert after.result == before.result


async def test_an_output_that_was_kept_and_never_accepted_is_taken_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running():
        carrier = carrier_of(submitter, tmp_path)
        await carrier.submit(spec())
        carrier.kept.take(spec().job_id, b"half", {"fence": 1})
        async with carrying(submitter, tmp_path) as carrier:
            end = await carrier.wait(spec().job_id)

    assert end.state == "done"
    assert KeptJobs(tmp_path).output(spec().job_id) != b"half"
    assert len(submitter.recorder.of_kind("job.accepted")) == 1


async def test_a_result_that_the_disk_refuses_is_not_accepted_and_comes_later(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair()
    obstacle = tmp_path / spec().job_id.hex() / "output.new"

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        obstacle.mkdir()  # where a full disk would refuse the new file
        await until(lambda: carrier.reason(spec().job_id) is not None)
        accepted_early = submitter.recorder.of_kind("job.accepted")
        obstacle.rmdir()
        end = await carrier.wait(spec().job_id)

    assert accepted_early == []
    assert end.state == "done"
    assert worker.runners.finished == 1, "the worker had kept its outcome"


async def test_a_cancelled_job_stops_at_its_worker_and_stays_cancelled(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(hold=True))

    async with mesh.running():
        async with carrying(submitter, tmp_path) as carrier:
            await carrier.submit(spec())
            await until(lambda: worker.runners.running == 1)
            end = await carrier.cancel(spec().job_id)
            await until(lambda: worker.runners.cancelled == 1)
        async with carrying(submitter, tmp_path) as carrier:
            again = await carrier.cancel(spec().job_id)

    assert end.state == again.state == "cancelled"


async def test_a_job_that_fails_says_why_and_is_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair(FakeRunnerPool(error=JobFailed("no vowels in it", code="bad-text")))

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        end = await carrier.wait(spec().job_id)

    assert end.state == "failed"
    assert end.error is not None
    assert end.error["code"] == "bad-text"
    assert "no vowels" in end.error["message"]


async def test_the_same_job_again_is_attached_to_and_another_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        news = [await carrier.submit(spec()), await carrier.submit(spec())]
        with pytest.raises(Refused):
            await carrier.submit(spec(input=b"other"))
        await carrier.wait(spec().job_id)
        news.append(await carrier.submit(spec()))

    assert news == [Promise.NEW, Promise.KNOWN, Promise.KNOWN]
    assert worker.runners.finished == 1


async def test_many_jobs_are_carried_a_few_at_a_time_and_all_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, worker = a_pair(FakeRunnerPool(pace_s=0.01))
    numbers = range(1, 2 * MAX_CARRIED)

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        for number in numbers:
            await carrier.submit(spec(number))
        ends = [await carrier.wait(spec(number).job_id) for number in numbers]

    assert {end.state for end in ends} == {"done"}
    assert len(submitter.recorder.of_kind("job.accepted")) == len(numbers)
    assert worker.runners.finished == len(numbers)


async def test_nobody_waits_for_a_job_that_does_not_exist(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        for call in (carrier.wait, carrier.cancel):
            with pytest.raises(UnknownError):
                await call(spec().job_id)


async def test_waiting_for_a_job_that_is_over_leaves_nothing_behind(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(spec())
        ends: list[JobEnd] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(append_end, carrier, ends)
        await append_end(carrier, ends)

        assert [end.state for end in ends] == ["done"] * 4
        assert not carrier._ended


async def append_end(carrier: Carrier, ends: list[JobEnd]) -> None:
    ends.append(await carrier.wait(spec().job_id))


async def test_whoever_follows_a_kept_job_sees_its_output_grow_also_when_it_begins_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, submitter, _ = a_pair(FakeRunnerPool(emits=True, pace_s=1.0))
    job, told = spec(input=b"one two three four", items=6), list[Grown]()
    obstacle = tmp_path / job.job_id.hex() / "output.new"

    async with mesh.running(), carrying(submitter, tmp_path) as carrier:
        await carrier.submit(job)
        obstacle.mkdir()  # where a full disk would refuse the new file
        with carrier.following(job.job_id, Listener(lambda _: None, told.append)):
            await until(lambda: carrier.reason(job.job_id) is not None)
            seen_first = len(told)
            obstacle.rmdir()
            await carrier.wait(job.job_id)

    first, again = told[:seen_first], told[seen_first:]
    assert b"".join(grown.body for grown in first) == b"ONE TWO THREE FOUR"
    assert b"".join(grown.body for grown in again) == b"ONE TWO THREE FOUR"
    assert [grown.is_anew for grown in again].index(True) == 0
    assert sum(grown.is_anew for grown in told) == 1
