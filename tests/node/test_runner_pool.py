"""Which runners a pool starts, ends and waits for, with processes that only play at being some."""

from __future__ import annotations

import resource
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from node.models import ModelStore
from node.run_request import RunRequest
from node.runner_job import RunOutcome
from node.runner_room import Capacity, Memory, NoRoom, needed_bytes
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import JobFailed
from tests.support.models import model_folder
from tests.support.scripted_runner import WHOLE, Become, becoming

WITHIN_S = 30.0
PLENTY = Memory(64 << 30, 64 << 30)
GATED = """
while not os.path.exists("GATE"):
    time.sleep(0.01)
send(*(Done(job, b"x", {}, {"busy_ms": 1.0}) for job in (1, 2)))
wait()
"""
"""Answers two jobs once there is a file."""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    return becoming(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    for name in ("a", "b", "c", "d"):
        install(store, tmp_path, name)
    return store


def install(store: ModelStore, folder: Path, name: str) -> None:
    if not (folder / name).exists():
        model_folder(folder / name, weights=name.encode())
    store.add_path(folder / name, name=name)


def asked(model: str) -> RunRequest:
    return RunRequest(model, "embed", "fp32", b"\x81\x61a")


@asynccontextmanager
async def serving(store: ModelStore, capacity: Capacity) -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(store, system_effects(), capacity=capacity)
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            await pool.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - nothing in this process hears of it
        await trio.sleep(0.01)


def open_models(pool: RunnerPool) -> list[str]:
    return [each["model"] for each in pool.running()]


async def test_a_job_waits_for_a_runner_to_come_free_and_admission_is_told(
    store: ModelStore, runner: Become, tmp_path: Path
) -> None:
    outcomes: dict[str, RunOutcome] = {}

    async def run(model: str) -> None:
        outcomes[model] = await pool.run(asked(model))

    runner(GATED.replace("GATE", str(tmp_path / "gate")))
    async with serving(store, Capacity(1, lambda: PLENTY)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(run, "a")
        await until(lambda: open_models(pool) == ["a"])
        lacking = pool.no_room(store.get("b"), "fp32")
        nursery.start_soon(run, "b")
        await trio.testing.wait_all_tasks_blocked()
        (tmp_path / "gate").touch()

    assert isinstance(lacking, NoRoom)
    assert not lacking.is_lasting
    assert pool.no_room(store.get("b"), "fp32") is None
    assert sorted(outcomes) == ["a", "b"]


async def test_a_job_that_waits_for_a_runner_hears_that_the_pool_ends(
    store: ModelStore, runner: Become
) -> None:
    codes: list[str] = []

    async def run(model: str) -> None:
        with pytest.raises(JobFailed) as caught:
            await pool.run(asked(model))
        codes.append(caught.value.code)

    runner("wait()")
    async with serving(store, Capacity(1, lambda: PLENTY)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(run, "a")
        await until(lambda: open_models(pool) == ["a"])
        nursery.start_soon(run, "b")
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()

    assert codes == ["runner-stopped"] * 2


async def test_when_memory_is_short_the_runner_that_was_idle_longest_ends(
    store: ModelStore, runner: Become
) -> None:
    need = needed_bytes(store.get("a"), "fp32", 1) * 2
    memory = Memory(3 * need, None)

    runner(WHOLE)
    async with serving(store, Capacity(3, lambda: memory)) as pool:
        for model in ("a", "b", "c", "d"):
            await pool.run(asked(model))
        left = open_models(pool)

    assert left == ["b", "c", "d"]


async def test_a_model_that_does_not_fit_is_refused_by_name(
    store: ModelStore, runner: Become
) -> None:
    runner(WHOLE)
    async with serving(store, Capacity(4, lambda: Memory(1 << 20, None))) as pool:
        lacking = pool.no_room(store.get("a"), "fp32")
        with pytest.raises(JobFailed) as caught:
            await pool.run(asked("a"))

    assert isinstance(lacking, NoRoom)
    assert lacking.is_lasting
    assert caught.value.code == "too-little-memory"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of others can be read on Linux only")
async def test_runners_may_have_no_more_together_than_there_is(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.add("noop")
    memory = Memory(400 << 20, None)

    async with serving(store, Capacity(2, lambda: memory)) as pool:
        await pool.run(RunRequest("noop", "bench.noop", "none", b"\x81\x61a"))
        pid = pool.running()[0]["pid"]
        assert pid is not None
        limit, _ = resource.prlimit(pid, resource.RLIMIT_DATA)

    assert limit == 200 << 20


async def test_a_model_that_is_installed_anew_under_a_job_does_not_cost_it_its_next_runner(
    store: ModelStore, runner: Become, tmp_path: Path
) -> None:
    outcomes: list[RunOutcome] = []

    async def run() -> None:
        outcomes.append(await pool.run(asked("a")))

    runner(GATED.replace("GATE", str(tmp_path / "gate")))
    async with serving(store, Capacity(2, lambda: PLENTY)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: open_models(pool) == ["a"])
        before = pool.running()[0]["pid"]
        store.remove("a")
        install(store, tmp_path, "a")
        nursery.start_soon(run)
        await until(lambda: [each["jobs"] for each in pool.running()] == [2])
        (tmp_path / "gate").touch()

    assert len(outcomes) == 2
    assert before is not None
