"""Jobs in turn: a step of one after a step of the next."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count

from node.runner.kinds import Advanced, BadInputError, Broken, Event, Finished
from node.runner.turns_engine import Steps, TurnsEngine


class Steppers:
    """Jobs of as many steps as their input has bytes; ``x`` breaks, and every end is noted."""

    def __init__(self) -> None:
        self.closed: list[bytes] = []

    def begin(self, content: bytes) -> tuple[int, Steps]:
        if not content:
            raise BadInputError("nothing")
        return len(content), self._steps(content)

    def _steps(self, content: bytes) -> Generator[int, None, bytes]:
        try:
            for done in range(len(content)):
                if content[done : done + 1] == b"x":
                    raise ValueError("x")
                yield done + 1
            return content.upper()
        finally:
            self.closed.append(content)


def engine(steppers: Steppers) -> TurnsEngine:
    ticks = count()

    def clock() -> float:
        return next(ticks) / 1_000

    return TurnsEngine({"engine": "test"}, steppers.begin, clock, clock)


def test_jobs_take_turns_and_a_short_one_ends_before_a_long_one() -> None:
    running = engine(Steppers())
    running.start(1, b"aaaa")
    running.start(2, b"b")
    events: list[Event] = []

    while running.is_busy:
        events += running.step()

    done = [event for event in events if isinstance(event, Finished)]
    assert [(each.job, each.output) for each in done] == [(2, b"B"), (1, b"AAAA")]
    assert events[:2] == [Advanced(1, 1, 4), Advanced(2, 1, 1)]
    assert done[0].timings.keys() == {"queue_ms", "run_ms", "busy_ms", "cpu_ms"}
    assert float(done[1].timings["busy_ms"]) < float(done[1].timings["run_ms"])


def test_what_breaks_one_job_leaves_the_others() -> None:
    running = engine(Steppers())
    running.start(1, b"ax")
    running.start(2, b"bb")
    events: list[Event] = []

    while running.is_busy:
        events += running.step()

    assert [type(e.error) for e in events if isinstance(e, Broken)] == [ValueError]
    assert [e.output for e in events if isinstance(e, Finished)] == [b"BB"]


def test_a_cancelled_job_is_dropped_between_two_steps_and_cleans_up() -> None:
    steppers = Steppers()
    running = engine(steppers)
    running.start(1, b"aaaa")
    running.start(2, b"b")
    running.step()

    running.cancel(1)
    running.cancel(7)

    assert steppers.closed == [b"aaaa"]
    assert [event.job for event in running.step()] == [2]
