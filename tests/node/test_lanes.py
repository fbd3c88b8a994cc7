"""Who may run in the runners of one node, and when: lanes, turns, and the pool that uses both."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.lanes import OVERDUE_S, Lanes
from node.runners import RunnerPool, RunRequest
from node.turns import Turn, Turns
from peer.effects import system_effects
from protocols.errors import JobFailed
from protocols.limits import FAIR_QUANTUM_S, MAX_RUNNER_JOBS
from tests.support.runners import FakeModels, FakeRunnerChild, model_of

BENCHMARK, EMBED = "bench.compute", "embed"
MODELS = FakeModels({"m": model_of("m"), "n": model_of("n"), "b": model_of("b", BENCHMARK)})


# Lanes


class Log:
    """What ran when, as jobs tell it that go through lanes."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.running: list[str] = []
        self.began: list[str] = []

    async def job(self, name: str, kind: str, seconds: float) -> None:
        await self.lanes.enter(kind, seconds)
        try:
            self.began.append(name)
            self.running.append(name)
            if kind == BENCHMARK:
                assert self.running == [name], "a benchmark runs alone"
            await trio.sleep(seconds)
        finally:
            self.running.remove(name)
            self.lanes.leave(kind)


async def test_a_benchmark_waits_for_what_runs_and_holds_up_what_comes(
    autojump_clock: MockClock,
) -> None:
    log = Log()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.job, "first", EMBED, 3.0)
        nursery.start_soon(log.job, "second", EMBED, 1.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(log.job, "benchmark", BENCHMARK, 5.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(log.job, "third", EMBED, 1.0)

    assert sorted(log.began[:2]) == ["first", "second"]
    assert log.began[2:] == ["benchmark", "third"]
    assert trio.current_time() == 9.0


async def test_jobs_that_a_benchmark_held_up_go_before_the_next_benchmark(
    autojump_clock: MockClock,
) -> None:
    log = Log()

    async with trio.open_nursery() as nursery:
        for name, kind in (("b1", BENCHMARK), ("job", EMBED), ("b2", BENCHMARK), ("late", EMBED)):
            nursery.start_soon(log.job, name, kind, 1.0)
            await wait_all_tasks_blocked()

    assert log.began[0] == "b1"
    assert log.began[-1] == "b2"


async def test_only_one_benchmark_may_wait(autojump_clock: MockClock) -> None:
    log = Log()

    async with trio.open_nursery() as nursery:
        for name in ("runs", "waits"):
            nursery.start_soon(log.job, name, BENCHMARK, 1.0)
            await wait_all_tasks_blocked()
        assert log.lanes.has_benchmark_waiting
        with pytest.raises(JobFailed, match="another one waits"):
            await log.lanes.enter(BENCHMARK, 1.0)

    assert log.began == ["runs", "waits"]


@pytest.mark.parametrize("kind", ["bench.noop", "bench.network"])
async def test_benchmarks_that_leave_the_processor_to_others_run_beside_them(
    kind: str, autojump_clock: MockClock
) -> None:
    log = Log()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.job, "job", EMBED, 1.0)
        nursery.start_soon(log.job, "beside", kind, 1.0)

    assert trio.current_time() == 1.0


@pytest.mark.parametrize("given_up", ["runs", "waits", "held"])
async def test_who_gives_up_before_or_in_a_lane_keeps_nobody_out(
    given_up: str, autojump_clock: MockClock
) -> None:
    log = Log()
    scopes = {name: trio.CancelScope() for name in ("runs", "waits", "held")}

    async def cancellable(name: str, kind: str) -> None:
        with scopes[name]:
            await log.job(name, kind, 5.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancellable, "runs", EMBED)
        await wait_all_tasks_blocked()
        nursery.start_soon(cancellable, "waits", BENCHMARK)
        await wait_all_tasks_blocked()
        nursery.start_soon(cancellable, "held", EMBED)
        await wait_all_tasks_blocked()
        scopes[given_up].cancel()

    assert log.began == [name for name in scopes if name != given_up or name == "runs"]
    await log.job("after", BENCHMARK, 1.0)


async def test_a_lane_says_how_long_its_benchmarks_and_those_behind_them_will_take(
    autojump_clock: MockClock,
) -> None:
    log = Log()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.job, "benchmark", BENCHMARK, 9.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(log.job, "job", EMBED, 2.0)
        await trio.sleep(4.0)
        assert log.lanes.ahead_s(trio.current_time()) == 7.0
        assert log.lanes.ahead_s(trio.current_time() + 60.0) == 2.0 + OVERDUE_S

    assert log.lanes.ahead_s(trio.current_time()) == 0.0


# Turns


async def test_little_goes_into_a_runner_at_once_and_the_rest_waits_outside(
    autojump_clock: MockClock,
) -> None:
    turns = Turns()
    entered: list[Turn] = []

    async def enter(turn: Turn) -> None:
        await turns.enter(turn)
        entered.append(turn)

    jobs = [Turn("greedy", 1, 1, FAIR_QUANTUM_S / 2) for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(enter, job)
        await wait_all_tasks_blocked()
        assert len(entered) == 2
        assert turns.inside_s == FAIR_QUANTUM_S
        assert turns.waiting_s() == {"greedy": FAIR_QUANTUM_S * 4}

        turns.advanced(entered[0], 0.5)
        await wait_all_tasks_blocked()
        assert len(entered) == 3

        nursery.cancel_scope.cancel()

    for turn in entered:
        turns.leave(turn)
    assert (turns.inside_s, turns.waiting_s()) == (0.0, {})


async def test_who_has_nothing_in_a_runner_comes_in_at_once(autojump_clock: MockClock) -> None:
    turns = Turns(max_jobs=2)
    first, modest, late = Turn("greedy", 1, 1, 9.0), Turn("modest", 1, 1), Turn("late", 1, 1)

    await turns.enter(first)
    await turns.enter(modest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.enter, Turn("greedy", 1, 1, 9.0))
        await wait_all_tasks_blocked()
        nursery.start_soon(turns.enter, late)
        await wait_all_tasks_blocked()
        turns.leave(modest)
        assert late.entered.is_set()
        nursery.cancel_scope.cancel()


async def test_a_place_given_to_a_job_that_is_cancelled_goes_to_the_next(
    autojump_clock: MockClock,
) -> None:
    turns = Turns(max_jobs=1)
    first, second, third = (Turn("a", 1, 1, 0.1) for _ in range(3))
    scope = trio.CancelScope()

    async def second_enters() -> None:
        with scope:
            await turns.enter(second)

    await turns.enter(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second_enters)
        await wait_all_tasks_blocked()
        nursery.start_soon(turns.enter, third)
        await wait_all_tasks_blocked()
        scope.cancel()
        turns.leave(first)
        with trio.fail_after(1):
            await third.entered.wait()


async def test_what_was_free_while_unmeasured_counts_once_it_is_known(
    autojump_clock: MockClock,
) -> None:
    turns = Turns(max_jobs=1)

    await turns.enter(Turn("a", 4, 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.enter, Turn("b", 2, 1))
        await wait_all_tasks_blocked()
        turns.price(lambda turn: float(turn.items))
        assert turns.inside_s == 4.0
        assert turns.waiting_s() == {"b": 2.0}
        nursery.cancel_scope.cancel()


# The pool


@asynccontextmanager
async def pool_of_fakes() -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(MODELS, system_effects(), child=FakeRunnerChild)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        yield pool
        await pool.aclose()


def a_job(submitter: str, seconds: float, model: str = "m") -> RunRequest:
    kind = MODELS.get(model).kind
    return RunRequest(model, kind, "fp32", str(seconds).encode(), 1, submitter)


async def test_a_thousand_jobs_of_one_submitter_delay_anothers_by_one_quantum(
    autojump_clock: MockClock,
) -> None:
    seconds = 0.125

    async with pool_of_fakes() as pool, trio.open_nursery() as nursery:
        await pool.run(a_job("greedy", seconds))
        for _ in range(1_000):
            nursery.start_soon(pool.run, a_job("greedy", seconds))
        await trio.sleep(1.0)
        began_at = trio.current_time()
        await pool.run(a_job("modest", seconds))
        waited_s = trio.current_time() - began_at - seconds
        nursery.cancel_scope.cancel()

    assert waited_s <= FAIR_QUANTUM_S + seconds


async def test_submitters_who_have_much_to_do_get_the_same_time(
    autojump_clock: MockClock,
) -> None:
    done_s = {"long": 0.0, "short": 0.0}

    async def one(submitter: str, seconds: float) -> None:
        await pool.run(a_job(submitter, seconds))
        done_s[submitter] += seconds

    async with pool_of_fakes() as pool, trio.open_nursery() as nursery:
        await one("long", 2.0)
        await one("short", 0.1)
        for _ in range(50):
            nursery.start_soon(one, "long", 2.0)
            for _ in range(20):
                nursery.start_soon(one, "short", 0.1)
        await trio.sleep(40.0)
        nursery.cancel_scope.cancel()

    assert done_s["short"] >= 10.0
    assert done_s["long"] >= 10.0


async def test_no_runner_works_while_a_benchmark_does(autojump_clock: MockClock) -> None:
    order: list[str] = []

    async def one(model: str, seconds: float) -> None:
        await pool.run(a_job("s", seconds, model))
        order.append(model)

    async with pool_of_fakes() as pool:
        async with trio.open_nursery() as nursery:
            for model, seconds in (("m", 3.0), ("b", 5.0), ("n", 1.0), ("m", 1.0)):
                nursery.start_soon(one, model, seconds)
                await wait_all_tasks_blocked()
            assert pool.backlog(MODELS.get("m"), "fp32").before_s >= OVERDUE_S
            assert pool.backlog(MODELS.get("b"), "fp32").has_benchmark_waiting

        assert order[:2] == ["m", "b"]
        assert trio.current_time() == 9.0
        assert pool.backlog(MODELS.get("b"), "fp32").before_s == 0.0


async def test_a_runner_takes_no_more_jobs_than_it_has_places_for(
    autojump_clock: MockClock,
) -> None:
    async with pool_of_fakes() as pool, trio.open_nursery() as nursery:
        for number in range(MAX_RUNNER_JOBS + 9):
            nursery.start_soon(pool.run, a_job(f"s{number}", 1.0))
        await wait_all_tasks_blocked()
        waiting_s = pool.backlog(MODELS.get("m"), "fp32").waiting_s
        nursery.cancel_scope.cancel()

    assert len(waiting_s) == 9
