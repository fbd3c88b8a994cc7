from collections.abc import Callable, Sequence

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from node.lanes import Lanes, runs_alone


class Jobs:
    """Jobs on the lanes of one node, and what ran beside each."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.running: list[str] = []
        self.began: list[str] = []
        self.neighbours: dict[str, set[str]] = {}

    async def run(self, name: str, kind: str, seconds: float) -> None:
        async with self.lanes.lane(kind):
            self.began.append(name)
            self.running.append(name)
            for one in self.running:
                self.neighbours.setdefault(one, set()).update(self.running)
            try:
                await trio.sleep(seconds)
            finally:
                self.running.remove(name)


@pytest.mark.parametrize(
    ("kind", "alone"),
    [
        ("bench.compute", True),
        ("bench.memory", True),
        ("bench.model", True),
        ("bench.noop", False),
        ("bench.network", False),
        ("embed", False),
        ("benchmark", False),
    ],
)
def test_only_what_measures_the_machine_runs_alone(kind: str, alone: bool) -> None:
    assert runs_alone(kind) is alone


async def test_ordinary_jobs_run_together(autojump_clock: MockClock) -> None:
    jobs = Jobs()

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "noop"):
            nursery.start_soon(jobs.run, name, "bench.noop" if name == "noop" else "embed", 1.0)

    assert jobs.neighbours["a"] == {"a", "b", "noop"}


async def test_a_benchmark_waits_for_those_before_it_and_those_after_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    jobs = Jobs()

    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery,
            [
                lambda: jobs.run("a", "embed", 5.0),
                lambda: jobs.run("bench", "bench.compute", 2.0),
                lambda: jobs.run("b", "embed", 1.0),
            ],
        )
        assert jobs.lanes.benchmarks_waiting == 1

    assert jobs.began == ["a", "bench", "b"]
    assert jobs.neighbours["bench"] == {"bench"}
    assert trio.current_time() == pytest.approx(8.0)


async def test_a_benchmark_that_gives_up_waiting_lets_the_others_go_on(
    autojump_clock: MockClock,
) -> None:
    jobs = Jobs()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run, "a", "embed", 5.0)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(jobs.run, "bench", "bench.compute", 2.0)
                await wait_all_tasks_blocked()
                nursery.start_soon(jobs.run, "b", "embed", 1.0)
                await wait_all_tasks_blocked()
                assert jobs.began == ["a"]
                scope.cancel()
        await wait_all_tasks_blocked()

        assert jobs.began == ["a", "b"]


async def test_a_benchmark_that_fails_or_is_cancelled_frees_the_node(
    autojump_clock: MockClock,
) -> None:
    jobs = Jobs()

    with trio.move_on_after(1):
        await jobs.run("bench", "bench.compute", 100.0)
    with trio.fail_after(2):
        await jobs.run("a", "embed", 1.0)

    assert jobs.neighbours["bench"] == {"bench"}


@settings(deadline=None, max_examples=50)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from(["embed", "bench.compute", "bench.noop"]),
            st.floats(0, 3),
            st.floats(0.1, 3),
            st.floats(0.1, 6),
        ),
        max_size=12,
    )
)
def test_a_benchmark_is_always_alone_and_everyone_gets_a_turn(
    plan: list[tuple[str, float, float, float]],
) -> None:
    jobs = Jobs()

    async def one(
        number: int, kind: str, after_s: float, seconds: float, patience_s: float
    ) -> None:
        await trio.sleep(after_s)
        with trio.move_on_after(patience_s):
            await jobs.run(f"{kind} {number}", kind, seconds)

    async def everyone() -> None:
        async with trio.open_nursery() as nursery:
            for number, step in enumerate(plan):
                nursery.start_soon(one, number, *step)
        with trio.fail_after(1):
            await jobs.run("last", "embed", 0.5)

    trio.run(everyone, clock=MockClock(autojump_threshold=0))

    assert not jobs.running
    for name, beside in jobs.neighbours.items():
        if name.startswith("bench.compute"):
            assert beside == {name}


async def start_in_order(nursery: trio.Nursery, steps: Sequence[Callable[[], object]]) -> None:
    for step in steps:
        nursery.start_soon(step)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
