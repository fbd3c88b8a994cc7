import pytest
import trio
from trio.testing import MockClock

from node.turns import Turns
from protocols.limits import QUANTUM_S


async def test_a_single_job_passes_the_thousand_of_another(autojump_clock: MockClock) -> None:
    turns, ended = Turns(), list[str]()

    async def job(submitter: str, seconds: float) -> None:
        async with turns.turn(submitter, seconds):
            await trio.sleep(seconds)
            ended.append(submitter)

    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(job, "greedy", QUANTUM_S)
        await trio.testing.wait_all_tasks_blocked()
        began_at = trio.current_time()
        await job("modest", 0.1)
        assert trio.current_time() - began_at == pytest.approx(0.1)

    assert len(ended) == 1_001


async def test_a_job_that_is_cancelled_or_fails_gives_its_turn_back(
    autojump_clock: MockClock,
) -> None:
    turns = Turns()

    async def fail() -> None:
        async with turns.turn("a", 10.0):
            await trio.sleep(1)
            raise ValueError("it failed")

    for _ in range(100):
        with pytest.raises(ValueError, match="it failed"):
            await fail()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(hold, turns)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    with trio.fail_after(1):
        async with turns.turn("a", 10.0):
            pass


async def hold(turns: Turns) -> None:
    async with turns.turn("a", 10.0):
        await trio.sleep_forever()
