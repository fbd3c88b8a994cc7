"""Benchmarks between nodes on the in-memory network: what is recorded, learned, and refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from node import benchmarks
from node.benchmarks.echo import EchoServer, measure_network
from node.benchmarks.statement import MEASURED, RESULT, Statement
from node.job import JobResult, JobSpec
from node.needs import JobNeeds
from node.runner.kinds import bench_compute, bench_model, bench_network
from peer.directory import Directory
from protocols import echo
from protocols.benchmark import decode_figures, encode_figures
from protocols.cid import CID
from protocols.errors import CoveyError, JobFailed, Refused, StreamLostError
from protocols.limits import MAX_ECHO_BYTES
from protocols.membership import ECHO_PROTOCOL
from protocols.transport import Stream
from tests.support.benchmarks import figure
from tests.support.jobs import MODEL, JobMesh, JobNode, spec
from tests.support.members import TestMesh, effects_of, key_of
from tests.support.memory import MemoryNetwork, MemoryTransport
from tests.support.runners import FakeModels, FakeRunnerPool, model_of
from tests.support.transports import connect_admitted, running

RATE = figure("matmul_fp32_all_threads_gflops", 40.0, 50.0, 60.0)
LATENCIES = (
    figure("batch_1_latency_ms", 20.0, is_higher_better=False),
    figure("batch_8_latency_ms", 90.0, is_higher_better=False),
)
DELAY_S = 0.02


def models() -> FakeModels:
    return FakeModels(
        {MODEL: model_of(MODEL), "machine": model_of("machine", "machine", ("none",))}
    )


def a_pair(output_of: Callable[[bytes], bytes]) -> tuple[JobMesh, JobNode, JobNode]:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    runners = FakeRunnerPool(output_of=output_of)
    return mesh, submitter, mesh.add("worker", runners=runners, models=models())


def compute(worker: JobNode, **parameters: float) -> JobSpec:
    return spec(
        kind=benchmarks.COMPUTE,
        model="machine",
        input=bench_compute.encode_input([], parameters),
        items=1,
        peer=worker.peer_id,
    )


async def run(mesh: JobMesh, submitter: JobNode, job: JobSpec) -> JobResult:
    async with mesh.running():
        return await submitter.submitter.run(job)


async def failure(mesh: JobMesh, submitter: JobNode, job: JobSpec) -> CoveyError:
    """Run a job that fails, and return how."""
    async with mesh.running():
        with pytest.raises(CoveyError) as failed:
            await submitter.submitter.run(job)
    return failed.value


# Records


async def test_both_sides_state_the_figures_and_join_them_to_the_job(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))

    result = await run(mesh, submitter, compute(worker))

    (told,) = submitter.recorder.of_kind(RESULT)
    (measured,) = worker.recorder.of_kind(MEASURED)
    mine, theirs = Statement.of(told.attributes), Statement.of(measured.attributes)
    assert mine.figures == theirs.figures == (RATE,)
    assert mine.parameters == theirs.parameters == {"seconds": 0.5, "size": 768}
    assert (mine.worker, mine.submitter) == (worker.peer_id, submitter.peer_id)
    assert (theirs.worker, theirs.submitter) == (worker.peer_id, submitter.peer_id)
    assert mine.execution["engine"] == "fake"
    assert mine.hardware == worker.advert().advert.hardware
    assert told.informed_by == (result.accepted_cid, result.record_cid)
    assert measured.informed_by == (result.record_cid,)
    (job,) = worker.recorder.of_kind("job.run")
    assert [role for _, role in job.used] == ["model", "input"]
    assert told.used == measured.used == ((result.output_cid, "output"),)
    assert CID.of(told.encode()) == result.benchmark_cid


async def test_a_job_that_is_no_benchmark_states_nothing(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(bytes.upper)

    result = await run(mesh, submitter, spec())

    assert result.benchmark_cid is None
    assert not submitter.recorder.of_kind(RESULT)
    assert not worker.recorder.of_kind(MEASURED)
    assert not worker.machine.learned


@pytest.mark.parametrize("output", [b"", b"\xff", encode_figures([RATE])[:-1], b"\x82\x01\x80"])
async def test_an_answer_that_holds_no_figures_fails_at_its_worker(
    output: bytes, autojump_clock: MockClock
) -> None:
    mesh, submitter, worker = a_pair(lambda _: output)

    failed = await failure(mesh, submitter, compute(worker))

    assert isinstance(failed, JobFailed)
    assert not submitter.recorder.of_kind("job.accepted")
    assert not submitter.recorder.of_kind(RESULT)
    assert not worker.recorder.of_kind(MEASURED)


async def test_a_worker_that_sends_something_else_is_not_believed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, submitter, worker = a_pair(lambda _: b"no figures")
    monkeypatch.setattr(worker.worker, "_runners", worker.runners)  # one that does not look

    failed = await failure(mesh, submitter, compute(worker))

    assert failed.code == "bad-output"
    assert "its output is none" in failed.message
    assert len(submitter.recorder.reports) == 1
    assert not submitter.recorder.of_kind("job.accepted")
    assert not submitter.recorder.of_kind(RESULT)


# What is learned


async def test_a_benchmark_of_the_machine_is_learned_by_its_worker(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))

    await run(mesh, submitter, compute(worker))

    assert worker.machine.learned == [RATE]
    assert submitter.machine.learned == []


@pytest.mark.parametrize(
    ("parameters", "is_learned"),
    [({"size": 64}, False), ({"size": 2048}, False), ({"seconds": 9}, True)],
)
async def test_other_sizes_than_those_of_a_start_are_not_advertised(
    parameters: dict[str, float], is_learned: bool, autojump_clock: MockClock
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))

    await run(mesh, submitter, compute(worker, **parameters))

    assert bool(worker.machine.learned) is is_learned


async def test_a_benchmark_of_a_model_tells_how_long_its_jobs_take(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures(LATENCIES))
    asked = bench_model.Parameters(batches=(1, 8))
    job = spec(
        kind=benchmarks.MODEL,
        input=bench_model.encode_input([], {"batches": (1, 8)}),
        peer=worker.peer_id,
    )

    result = await run(mesh, submitter, job)

    (record,) = worker.recorder.of_kind("job.run")
    assert CID.of(record.encode()) == result.record_cid
    assert [role for _, role in record.used] == ["model", "input"]
    assert worker.runners.learned == [
        (MODEL, 1, len(bench_model.probe("embed", asked, 1)), 0.02),
        (MODEL, 8, len(bench_model.probe("embed", asked, 8)), 0.09),
    ]
    assert worker.machine.learned == []


async def test_a_benchmark_of_a_model_says_nothing_of_how_its_jobs_fare(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures(LATENCIES))
    worker.runners.pace_s = 0.1
    job = spec(
        kind=benchmarks.MODEL,
        input=bench_model.encode_input([], {"batches": (1, 8)}),
        peer=worker.peer_id,
    )

    async with mesh.running():
        await submitter.submitter.run(job)
        now = trio.current_time()
        (before,) = submitter.placement.choose(JobNeeds("embed", MODEL), now).considered
        await submitter.submitter.run(spec(2))
        (after,) = submitter.placement.choose(JobNeeds("embed", MODEL), now).considered

    assert (before.results, after.results) == (0, 1)


async def test_a_benchmark_waits_for_the_measurement_of_the_start(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))
    worker.machine.measured = trio.Event()

    async with mesh.running(), trio.open_nursery() as nursery:
        nursery.start_soon(submitter.submitter.run, compute(worker))
        await trio.sleep(5)
        had = list(worker.runners.requests)
        worker.machine.measured.set()

    assert had == []
    assert worker.machine.learned == [RATE]


# Who takes them


async def test_a_kind_that_the_model_is_not_for_is_refused(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))
    content = bench_compute.encode_input([])

    async with mesh.running():
        with pytest.raises(CoveyError, match="runs minilm as embed"):
            await submitter.submitter.run(
                spec(kind=benchmarks.COMPUTE, input=content, peer=worker.peer_id)
            )
        with pytest.raises(Refused) as refused:
            await submitter.submitter.run(
                spec(2, kind="embed", model="machine", peer=worker.peer_id)
            )

    assert refused.value.code == "unknown-kind"


async def test_parameters_that_make_no_sense_fail_at_the_worker(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair(lambda _: encode_figures([RATE]))
    job = spec(
        kind=benchmarks.COMPUTE, model="machine", input=b"\xa0\xa0", items=1, peer=worker.peer_id
    )

    failed = await failure(mesh, submitter, job)

    assert failed.code == "bad-input"
    assert not worker.runners.requests


# The network


async def test_the_network_is_measured_between_worker_and_submitter(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_pair(bytes.upper)
    mesh.network.delay_s = (DELAY_S, DELAY_S)
    job = spec(
        kind=benchmarks.NETWORK,
        model="machine",
        input=bench_network.encode_input([], {"pings": 9, "rounds": 2}),
        items=1,
        peer=worker.peer_id,
    )

    result = await run(mesh, submitter, job)

    trip, up, down = decode_figures(result.output)
    assert [trip.name, up.name, down.name] == [
        "round_trip_ms",
        "to_submitter_mb_s",
        "from_submitter_mb_s",
    ]
    assert [trip.n, up.n, down.n] == [9, 2, 2]
    assert trip.median == pytest.approx(2_000 * DELAY_S)
    assert trip.spread < 1e-3
    assert 0 < up.median <= (1 << 20) / 1e6 / (2 * DELAY_S)
    assert not worker.runners.requests
    assert submitter.recorder.of_kind(RESULT)


async def test_a_node_has_no_network_to_itself(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    node = mesh.add("submitter", "worker", models=models())
    content = bench_network.encode_input([])

    job = spec(kind=benchmarks.NETWORK, model="machine", input=content, items=1, peer=node.peer_id)

    failed = await failure(mesh, node, job)

    assert failed.code == "network-unmeasured"
    assert "no network to itself" in failed.message


def two_transports() -> tuple[MemoryTransport, MemoryTransport]:
    network = MemoryNetwork()
    return network.transport(key_of(1)), network.transport(key_of(2))


def members(us: MemoryTransport, them: MemoryTransport) -> Directory:
    """What they know of us: that we are a worker."""
    mesh = TestMesh()
    directory = Directory(mesh.root.public, them.peer_id, effects_of())
    directory.met(us.peer_id, mesh.membership(key_of(1), "worker"), ())
    return directory


async def measure(us: MemoryTransport, them: MemoryTransport) -> None:
    await measure_network(us, them.peer_id, pings=1, rounds=1, round_mb=1, on_round=lambda: None)


async def test_nobody_echoes_for_a_peer_that_was_not_asked_to_measure(
    autojump_clock: MockClock,
) -> None:
    us, them = two_transports()
    measuring: set[str] = set()
    EchoServer(them, members(us, them), measuring.__contains__)

    async with running(us, them):
        await connect_admitted(us, them)
        with pytest.raises(JobFailed, match="not measured") as failed:
            await measure(us, them)
        measuring.add(us.peer_id)
        await measure(us, them)

    assert failed.value.code == "network-unmeasured"


async def test_a_peer_gets_one_echo_at_a_time(autojump_clock: MockClock) -> None:
    us, them = two_transports()
    EchoServer(them, members(us, them), lambda _: True)

    async with running(us, them):
        await connect_admitted(us, them)
        first = await us.open_stream(them.peer_id, ECHO_PROTOCOL)
        await first.send(echo.ping())
        await first.receive()
        with pytest.raises(JobFailed):
            await measure(us, them)
        await first.finish()
        assert await first.receive() is None
        await measure(us, them)


@pytest.mark.parametrize(
    "frame", [echo.source(MAX_ECHO_BYTES + 1), b"\x09", b"\x03"], ids=["much", "unknown", "short"]
)
async def test_an_echo_that_is_abused_ends(frame: bytes, autojump_clock: MockClock) -> None:
    us, them = two_transports()
    EchoServer(them, members(us, them), lambda _: True)

    async with running(us, them):
        await connect_admitted(us, them)
        stream = await us.open_stream(them.peer_id, ECHO_PROTOCOL)
        await stream.send(frame)
        with pytest.raises(StreamLostError):
            await stream.receive()
        await stream.aclose()


async def test_a_submitter_that_falls_silent_does_not_hold_its_worker_for_ever(
    autojump_clock: MockClock,
) -> None:
    us, them = two_transports()

    async def say_nothing(_stream: Stream) -> None:
        await trio.sleep_forever()

    them.serve(ECHO_PROTOCOL, say_nothing)

    async with running(us, them):
        await connect_admitted(us, them)
        with pytest.raises(JobFailed, match="it took too long"):
            await measure(us, them)
