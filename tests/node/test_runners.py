"""Runners as they are: real processes, real torch, the real weights of MiniLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from node.models import ModelStore
from node.run_request import RunRequest
from node.runner.kinds import embed
from node.runner.messages import (
    FROM_RUNNER,
    LOAD_JOB,
    TO_RUNNER,
    Failed,
    FrameBuffer,
    Load,
    frames,
)
from node.runner.sandbox import OFF, STRICT, lacking
from node.runner_job import RunOutcome
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import JobFailed
from tests.support.models import flip_byte

MODEL = "all-minilm-l6-v2"
EATING = ["A man is eating food.", "A man is eating a piece of bread."]
CARRYING = "The girl is carrying a baby."
TEXTS = [
    *EATING,
    CARRYING,
    "",
    "Zażółć gęślą jaźń 🦜",
    "a " * 400,
    "The same text.",
    "The same text.",
]
ENDLESS = ["a sentence of some length that repeats itself " * 4] * 50_000
WITHIN_S = 120.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("home") / "models")
    store.add(MODEL)
    return store


@asynccontextmanager
async def serving(store: ModelStore, **options: Any) -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(store, system_effects(), **options)
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            await pool.aclose()


def request(texts: list[str], precision: str = "fp32") -> RunRequest:
    return RunRequest(MODEL, "embed", precision, embed.encode_input(texts), len(texts))


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that only the operating system can tell."""
    while not is_so():  # noqa: ASYNC110 - nothing in this process hears of it
        await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@dataclass(frozen=True)
class Computed:
    """What one runner did with ``TEXTS``: in one job, and each in a job of its own, all at once."""

    together: RunOutcome
    progress: list[tuple[int, int]]
    alone: list[np.ndarray]
    pids: set[int | None]
    estimate_s: float | None


@pytest.fixture(scope="module")
def computed(store: ModelStore) -> Computed:
    async def compute() -> Computed:
        progress: list[tuple[int, int]] = []
        alone: dict[int, np.ndarray] = {}

        async def compute_alone(place: int) -> None:
            outcome = await pool.run(request([TEXTS[place]]))
            alone[place] = embed.array(outcome.output)[0]

        async with serving(store) as pool:
            together = await pool.run(request(TEXTS), lambda *step: progress.append(step))
            pids = {runner["pid"] for runner in pool.running()}
            async with trio.open_nursery() as nursery:
                for place in range(len(TEXTS)):
                    nursery.start_soon(compute_alone, place)
            pids |= {runner["pid"] for runner in pool.running()}
            estimate_s = pool.estimate_s(store.get(MODEL), "fp32", 100, 5_000)
        return Computed(together, progress, [alone[n] for n in sorted(alone)], pids, estimate_s)

    return trio.run(compute)


def test_sentences_of_like_meaning_have_like_vectors(computed: Computed):
    vectors = embed.array(computed.together.output)

    assert vectors.shape == (len(TEXTS), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] == pytest.approx(0.7553, abs=1e-3)
    assert vectors[0] @ vectors[2] == pytest.approx(-0.1050, abs=1e-3)


def test_vectors_are_in_order_and_do_not_depend_on_their_batch(computed: Computed):
    difference = np.abs(embed.array(computed.together.output) - np.stack(computed.alone))

    assert difference.max() <= 2e-6


def test_a_job_tells_its_progress_and_how_it_was_computed(computed: Computed):
    execution, timings = computed.together.execution, computed.together.timings

    assert computed.progress[-1] == (len(TEXTS), len(TEXTS))
    assert str(execution["engine"]).startswith("torch 2.")
    assert (execution["dtype"], execution["device"]) == ("float32", "cpu")
    assert (execution["batch_tokens"], execution["truncated"]) == (768, 1)
    assert set(timings) == {"load_ms", "queue_ms", "run_ms", "busy_ms", "cpu_ms"}


def test_one_warm_runner_serves_every_job_and_is_known_by_its_speed(computed: Computed):
    assert len(computed.pids) == 1
    assert computed.estimate_s is not None
    assert computed.estimate_s > 0


async def test_bf16_is_within_its_tolerance_and_named(store: ModelStore, computed: Computed):
    if "bf16" not in store.get(MODEL).precisions:
        pytest.skip("this processor does not multiply in bf16")
    async with serving(store) as pool:
        outcome = await pool.run(request(TEXTS, "bf16"))

    cosines = (embed.array(outcome.output) * embed.array(computed.together.output)).sum(axis=1)
    assert cosines.min() > 0.999
    assert outcome.execution["dtype"] == "bfloat16"


async def test_a_cancelled_or_refused_job_leaves_its_runner_to_the_next(store: ModelStore):
    async with serving(store) as pool:
        with trio.CancelScope() as scope:
            await pool.run(request(ENDLESS), lambda _done, _total: scope.cancel())
        (before,) = pool.running()
        with pytest.raises(JobFailed, match="no texts") as refused:
            await pool.run(RunRequest(MODEL, "embed", "fp32", b"\x80"))
        outcome = await pool.run(request(EATING))
        (after,) = pool.running()

    assert scope.cancelled_caught
    assert refused.value.code == "bad-input"
    assert refused.value.exceptions[-1].type == "BadInputError"
    assert embed.array(outcome.output).shape == (2, 384)
    assert before["pid"] == after["pid"]
    assert not is_alive(after["pid"] or 0)


async def test_a_killed_runner_fails_its_jobs_and_the_next_job_gets_another(store: ModelStore):
    killed: list[int] = []

    def kill(_done: int, _total: int) -> None:
        pid = pool.running()[0]["pid"]
        if pid and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    async with serving(store) as pool:
        with pytest.raises(JobFailed, match="SIGKILL") as caught:
            await pool.run(request(ENDLESS), kill)
        outcome = await pool.run(request(EATING))
        pids = [runner["pid"] for runner in pool.running()]

    assert caught.value.code == "runner-crashed"
    assert embed.array(outcome.output).shape == (2, 384)
    assert pids != killed


async def test_a_runner_that_does_not_stop_is_killed_and_its_other_jobs_run_again(
    store: ModelStore,
):
    pids: list[int] = []
    outcomes: list[RunOutcome] = []

    def freeze(_done: int, _total: int) -> None:
        pid = pool.running()[0]["pid"]
        if pid and not pids:
            pids.append(pid)
            os.kill(pid, signal.SIGSTOP)
            nursery.start_soon(run_another)
            scope.cancel()

    async def run_another() -> None:
        outcomes.append(await pool.run(request(EATING)))

    async with serving(store) as pool, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            await pool.run(request(ENDLESS), freeze)

    assert scope.cancelled_caught
    assert not is_alive(pids[0])
    assert len(outcomes) == 1


async def test_a_byte_flipped_on_disk_fails_the_next_job_warm_or_cold(tmp_path: Path):
    store = ModelStore(tmp_path / "models")
    weights = store.add(MODEL).path / "model.safetensors"

    async with serving(store) as pool:
        before = await pool.run(request(EATING))
        flip_byte(weights, 50_000_000)
        with pytest.raises(JobFailed, match=r"model\.safetensors") as warm:
            await pool.run(request(EATING))
        flip_byte(weights, 50_000_000)
        after = await pool.run(request(EATING))
    flip_byte(weights, 50_000_000)
    async with serving(store) as pool:
        with pytest.raises(JobFailed, match=r"model\.safetensors") as cold:
            await pool.run(request(EATING))

    assert before.output == after.output
    for caught in (warm, cold):
        assert caught.value.code == "model-damaged"
        root = caught.value.exceptions[-1]
        assert root.type == "ModelDamagedError"
        assert root.frames[-1].module == "node.runner.files"


async def test_closing_the_pool_ends_its_runners_and_fails_their_jobs(store: ModelStore):
    failures: list[JobFailed] = []

    async def run() -> None:
        with pytest.raises(JobFailed) as caught:
            await pool.run(request(EATING))
        failures.append(caught.value)

    async with serving(store) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: any(runner["pid"] for runner in pool.running()))
        pid = pool.running()[0]["pid"]
        await pool.aclose()

    assert [failure.code for failure in failures] == ["runner-stopped"]
    assert not is_alive(pid or 0)


async def test_an_idle_runner_is_unloaded(store: ModelStore):
    async with serving(store, idle_unload_s=0.01) as pool:
        await pool.run(request(EATING))
        await until(lambda: not pool.running())


PARENT = """
import sys, trio
from pathlib import Path
from node.models import ModelStore
from node.run_request import RunRequest
from node.runners import RunnerPool
from node.runner.kinds import embed
from peer.effects import system_effects

async def main():
    pool = RunnerPool(ModelStore(Path(sys.argv[1])), system_effects())
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        await pool.run(RunRequest("all-minilm-l6-v2", "embed", "fp32", embed.encode_input(["a"])))
        print(pool.running()[0]["pid"], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def start_daemon(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, str(root)], stdout=subprocess.PIPE)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only the end of stdin tells a runner"
)
async def test_even_a_frozen_runner_dies_with_its_daemon(store: ModelStore):
    with start_daemon(store.get(MODEL).path.parent) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        was_alive = is_alive(pid)

        daemon.kill()

    with trio.fail_after(WITHIN_S):
        await until(lambda: not is_alive(pid))
    assert was_alive


@pytest.mark.skipif(bool(lacking()), reason=lacking())
async def test_a_confined_runner_computes_the_same_and_none_of_its_threads_is_free(
    store: ModelStore,
):
    outcomes: dict[str, RunOutcome] = {}
    states: dict[str, set[str]] = {}
    for level in (STRICT, OFF):
        async with serving(store, sandbox=level) as pool:
            outcomes[level] = await pool.run(request(TEXTS))
            states[level] = confinement(pool.running()[0]["pid"])

    assert outcomes[STRICT].output == outcomes[OFF].output
    assert [outcomes[level].execution["sandbox"] for level in (STRICT, OFF)] == [STRICT, OFF]
    assert states == {STRICT: {"Seccomp:\t2"}, OFF: {"Seccomp:\t0"}}


def confinement(pid: int | None) -> set[str]:
    """What the kernel says of the filters of a process's threads, of which there are some."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    assert len(tasks) > 1
    return {
        line
        for task in tasks
        for line in (task / "status").read_text().splitlines()
        if line.startswith("Seccomp:")
    }


async def test_a_model_that_is_installed_anew_gets_a_runner_that_can_open_it(tmp_path: Path):
    store = ModelStore(tmp_path / "models")
    content = embed.encode_input(TEXTS)
    noop = RunRequest("noop", "bench.noop", "none", content)
    store.add("noop")

    async with serving(store) as pool:
        await pool.run(noop)
        before = pool.running()[0]["pid"]
        store.remove("noop")
        store.add("noop")
        outcome = await pool.run(noop)
        after = [runner["pid"] for runner in pool.running()]

    assert outcome.output == content
    assert before not in after


UNCONFINABLE = """
import os, sys
from node.runner.sandbox import kernel
from node.runner.sandbox.seccomp import ALLOW, EQUAL, FAIL, LOAD, RETURN, SECCOMP, install
column = kernel.machine()
kernel.forbid_new_privileges()
is_seccomp = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, SECCOMP[column])]
install(column, [*is_seccomp, (RETURN, 0, 0, FAIL | 1), (RETURN, 0, 0, ALLOW)])
os.execv(sys.executable, [sys.executable, "-P", "-m", "node.runner", str(os.getppid())])
"""


@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_a_runner_that_cannot_be_confined_computes_nothing(store: ModelStore):
    model = store.get(MODEL)
    order = Load(str(model.path), MODEL, bytes(model.cid), "embed", "fp32", 1, 768, STRICT, "cpu")
    (frame,) = frames(TO_RUNNER, [order])

    ended = subprocess.run(
        [sys.executable, "-c", UNCONFINABLE], input=frame, capture_output=True, check=True
    )

    (payload,) = FrameBuffer().feed(ended.stdout)
    (answer,) = FROM_RUNNER.decode(payload)
    assert isinstance(answer, Failed)
    assert (answer.job, answer.code) == (LOAD_JOB, "runner-sandbox")


async def test_noop_takes_the_same_way_without_weights(tmp_path: Path):
    store = ModelStore(tmp_path / "models")
    store.add("noop")
    content = embed.encode_input(TEXTS)

    async with serving(store) as pool:
        outcome = await pool.run(RunRequest("noop", "bench.noop", "none", content))

    assert outcome.output == content
