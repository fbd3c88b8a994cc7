"""Benchmarks in runners as they are: real processes, real torch, the real weights of MiniLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node import benchmarks
from node.models import ModelError, ModelStore
from node.run_request import RunRequest
from node.runner.kinds import bench_compute, bench_memory, bench_model, bench_network, embed
from node.runner_job import RunOutcome
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.benchmark import Figure, decode_figures
from protocols.errors import JobFailed
from tests.support.llama import llama_folder
from tests.support.transports import until

MODEL = "all-minilm-l6-v2"
WITHIN_S = 120.0
MANY = ["a sentence of some length that repeats itself " * 4] * 20_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("home") / "models")
    store.add(MODEL)
    return store


@asynccontextmanager
async def serving(store: ModelStore) -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(store, system_effects())
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            await pool.aclose()


def compute() -> RunRequest:
    content = bench_compute.encode_input([], {"seconds": 0.05, "size": 64})
    return RunRequest("machine", benchmarks.COMPUTE, "none", content)


def named(outcome: RunOutcome) -> dict[str, Figure]:
    return {figure.name: figure for figure in decode_figures(outcome.output)}


async def test_a_benchmark_and_a_job_do_not_overlap(store: ModelStore):
    beside: list[dict[str, str]] = []
    ended: list[str] = []

    async def embed_until(scope: trio.CancelScope) -> None:
        with scope:
            content = embed.encode_input(MANY)
            job = RunRequest(MODEL, "embed", "fp32", content, len(MANY))
            await pool.run(job, lambda *_: begun.set())
        ended.append("before")

    async def measure() -> None:
        def look(_done: int, _total: int) -> None:
            beside.append({runner["model"]: runner["state"] for runner in pool.running()})

        await pool.run(compute(), look)
        ended.append("benchmark")

    async def embed_after() -> None:
        content = embed.encode_input(["one", "two"])
        await pool.run(RunRequest(MODEL, "embed", "fp32", content, 2))
        ended.append("after")

    async with serving(store) as pool, trio.open_nursery() as nursery:
        begun, scope = trio.Event(), trio.CancelScope()
        nursery.start_soon(embed_until, scope)
        await begun.wait()
        nursery.start_soon(measure)
        await until(pool.is_benchmark_waiting)
        nursery.start_soon(embed_after)
        before = [runner["model"] for runner in pool.running()]
        scope.cancel()

    assert before == [MODEL]
    assert ended == ["before", "benchmark", "after"]
    assert beside
    assert all(states == {MODEL: "idle", "machine": "working"} for states in beside)


async def test_the_machine_is_measured_each_time_in_a_process_that_ends_with_it(
    store: ModelStore,
):
    pids: list[set[int | None]] = []
    copied = bench_memory.encode_input([], {"seconds": 0.05, "copy_mb": 1})

    def look(_done: int, _total: int) -> None:
        pids[-1].update(runner["pid"] for runner in pool.running())

    async with serving(store) as pool:
        pids.append(set())
        computed = await pool.run(compute(), look)
        await until(lambda: not pool.running())
        pids.append(set())
        moved = await pool.run(RunRequest("machine", benchmarks.MEMORY, "none", copied), look)
        await until(lambda: not pool.running())

    assert [len(each) for each in pids] == [1, 1]
    assert pids[0] != pids[1]
    figures = named(computed) | named(moved)
    assert {
        "matmul_fp32_one_thread_gflops",
        "matmul_fp32_all_threads_gflops",
        "memory_copy_one_thread_gb_s",
        "memory_copy_all_threads_gb_s",
        "memory_read_one_thread_gb_s",
        "memory_read_all_threads_gb_s",
    } <= set(figures)
    assert all(figure.n >= 5 and figure.is_higher_better for figure in figures.values())
    assert figures["memory_copy_one_thread_gb_s"].threads == 1
    assert str(computed.execution["engine"]).startswith("torch 2.")
    assert computed.execution["nice"] == 10


async def test_a_model_is_measured_by_items_of_a_job_and_expected_to_take_as_long(
    store: ModelStore,
):
    content = bench_model.encode_input([], {"seconds": 0.05, "batches": (1, 4)})
    request = RunRequest(MODEL, benchmarks.MODEL, "fp32", content)

    async with serving(store) as pool:
        unknown_s = pool.estimate_s(store.get(MODEL), "fp32", 4, 400)
        outcome = await pool.run(request)
        pool.learn(request, units=4, size_bytes=400, busy_s=2.0)
        known_s = pool.estimate_s(store.get(MODEL), "fp32", 4, 400)
        of_itself_s = pool.estimate_s(
            store.get(MODEL).used_for(benchmarks.MODEL), "fp32", 1, len(content)
        )

    figures = named(outcome)
    assert list(figures) == [
        "batch_1_latency_ms",
        "batch_1_items_s",
        "batch_4_latency_ms",
        "batch_4_items_s",
    ]
    assert not figures["batch_1_latency_ms"].is_higher_better
    assert figures["batch_4_latency_ms"].n == figures["batch_4_items_s"].n >= 5
    assert outcome.execution["kind_of_model"] == "embed"
    assert outcome.execution["dtype"] == "float32"
    assert unknown_s is None
    assert known_s == pytest.approx(2.0)
    assert of_itself_s is not None


async def test_a_model_that_writes_tells_of_tokens_too(tmp_path: Path):
    store = ModelStore(tmp_path / "models")
    store.add_path(llama_folder(tmp_path / "llama"), name="llama", kind="generate")
    asked = {"seconds": 0.05, "batches": (1, 8), "words": 4, "tokens": 4}
    content = bench_model.encode_input([], asked)

    async with serving(store) as pool:
        outcome = await pool.run(RunRequest("llama", benchmarks.MODEL, "fp32", content))

    figures = named(outcome)
    assert {
        f"batch_{batch}_{what}" for batch in (1, 8) for what in ("first_token_ms", "tokens_s")
    } < (figures.keys())
    assert all(figure.n >= 5 for figure in figures.values())
    assert figures["batch_1_first_token_ms"].median < figures["batch_1_latency_ms"].median
    assert outcome.execution["kind_of_model"] == "generate"


async def test_the_daemon_says_how_many_cores_there_are_to_measure(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("node.runners.usable_cores", lambda: 3)  # a confined runner cannot look

    async with serving(store) as pool:
        outcome = await pool.run(compute())

    assert named(outcome)["matmul_fp32_all_threads_gflops"].threads == 3
    assert outcome.execution["threads"] == 3
    assert outcome.execution["device"] == "cpu"


async def test_a_benchmark_can_be_cancelled(store: ModelStore):
    content = bench_compute.encode_input([], {"seconds": 30, "size": 64})
    request = RunRequest("machine", benchmarks.COMPUTE, "none", content)

    async with serving(store) as pool:
        with trio.move_on_after(WITHIN_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, request)
                await until(lambda: any(r["state"] == "working" for r in pool.running()), WITHIN_S)
                scope.cancel()
        await until(lambda: not pool.running())

    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        (lambda c: RunRequest("machine", "embed", "none", c), "is of kind machine, not embed"),
        (lambda c: RunRequest(MODEL, "bench.compute", "fp32", c), "is of kind embed, not bench"),
        (lambda c: RunRequest("machine", "bench.network", "none", c), "measured by the daemon"),
    ],
)
async def test_a_kind_that_is_not_for_this_model_fails(
    request_of: Callable[[bytes], RunRequest], says: str, store: ModelStore
):
    async with serving(store) as pool:
        with pytest.raises(JobFailed, match=says):
            await pool.run(request_of(bench_network.encode_input([])))


def test_every_node_has_the_model_machine_and_no_other_gets_its_name(tmp_path: Path):
    store = ModelStore(tmp_path / "models")

    assert store.get("machine").kind == "machine"
    assert store.list() == []
    with pytest.raises(ModelError, match="the machine itself"):
        store.add_path(tmp_path, name="machine")
