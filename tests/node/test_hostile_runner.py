"""What a runner that was taken over, or is broken, can make of the daemon: nothing but the end of
its own jobs. Each is a real process that speaks to a real pool.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from node.models import ModelStore
from node.run_request import RunRequest
from node.runner_job import RunOutcome
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import JobFailed
from tests.support.scripted_runner import WHOLE, Become, becoming

WITHIN_S = 20.0


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    store.add("noop")
    return store


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    return becoming(tmp_path, monkeypatch)


async def run(store: ModelStore, job: Any) -> Any:
    """Return what ``job`` makes of a pool that is served while it runs."""
    pool = RunnerPool(store, system_effects())
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            result = await job(pool)
            await pool.aclose()
    return result


NOOP = RunRequest("noop", "bench.noop", "none", b"\x81\x61a")


async def failure(pool: RunnerPool) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await pool.run(NOOP)
    return caught.value


@pytest.mark.skipif(sys.platform != "linux", reason="real-time signals are Linux's")
async def test_a_runner_that_a_nameless_signal_ends_fails_its_job_and_the_next_gets_another(
    store: ModelStore, runner: Become
) -> None:
    async def job(pool: RunnerPool) -> tuple[JobFailed, RunOutcome]:
        failed = await failure(pool)
        runner(WHOLE)
        return failed, await pool.run(NOOP)

    runner("os.kill(os.getpid(), 40)")
    failed, outcome = await run(store, job)

    assert failed.code == "runner-crashed"
    assert "by signal 40" in failed.message
    assert outcome.output == b"x"


async def test_what_goes_wrong_in_following_one_runner_ends_that_runner_only(
    store: ModelStore, runner: Become
) -> None:
    def refuse(_piece: bytes) -> None:
        raise ZeroDivisionError("nobody takes this")

    async def job(pool: RunnerPool) -> tuple[JobFailed, RunOutcome]:
        with pytest.raises(JobFailed) as caught:
            await pool.run(NOOP, on_piece=refuse)
        runner(WHOLE)
        return caught.value, await pool.run(NOOP)

    runner('send(Emitted(1, b"x"))\nwait()')
    failed, outcome = await run(store, job)

    assert failed.code == "runner-crashed"
    assert outcome.output == b"x"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("send(Progress(1, 0, 0))", id="none of none is done"),
        pytest.param("raw(12, 1, 3, 2)", id="more is done than there is"),
        pytest.param("raw(12, 1, -1, 2)", id="less than nothing is done"),
        pytest.param('raw(14, 1, b"x", {}, {})', id="nothing says how long it took"),
        pytest.param('raw(14, 1, b"x", {}, {"busy_ms": float("nan")})', id="for no time at all"),
        pytest.param('raw(14, 1, b"x", {}, {"busy_ms": float("inf")})', id="for ever"),
        pytest.param('raw(14, 1, b"x", {}, {"busy_ms": -1.0})', id="backwards"),
        pytest.param('raw(14, 1, b"x", {}, {"busy_ms": "long"})', id="a time that is a word"),
        pytest.param('raw(14, 1, b"x", {}, {"busy_ms": 1e300})', id="longer than the universe"),
    ],
)
async def test_a_runner_that_says_what_cannot_be_is_ended_and_teaches_nothing(
    store: ModelStore, runner: Become, body: str
) -> None:
    async def job(pool: RunnerPool) -> tuple[JobFailed, float | None]:
        failed = await failure(pool)
        return failed, pool.estimate_s(store.get("noop"), "none", 1, 10)

    runner(f"{body}\nwait()")
    failed, estimate_s = await run(store, job)

    assert failed.code == "runner-crashed"
    assert estimate_s is None


async def test_a_runner_cannot_fill_the_daemon_with_an_output(
    store: ModelStore, runner: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runner_job.MAX_JOB_OUTPUT_BYTES", 1 << 20)

    runner('while True:\n    send(Output(1, b"x" * (128 << 10)))')
    failed = await run(store, failure)

    assert failed.code == "runner-crashed"
    assert "over the limit" in failed.message


async def test_a_runner_cannot_say_that_its_model_took_longer_to_load(
    store: ModelStore, runner: Become
) -> None:
    async def job(pool: RunnerPool) -> RunOutcome:
        return await pool.run(NOOP)

    runner('send(Done(1, b"x", {}, {"busy_ms": 1.0, "load_ms": 1e9}))\nwait()')
    outcome = await run(store, job)

    assert float(outcome.timings["load_ms"]) < 1e6
