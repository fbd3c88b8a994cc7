from __future__ import annotations

from collections.abc import Callable

import pytest

from node.runner.backends.torch_bench import check_room
from node.runner.benchmarker import Benchmarker, Series, as_rate
from node.runner.kinds import Advanced, BadInputError, Broken, Event, Finished
from protocols.benchmark import decode_figures
from protocols.limits import BENCH_OVERTIME, MAX_BENCH_SAMPLES, MIN_BENCH_SAMPLES


class Time:
    """A clock that stands still unless work passes on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: Callable[[int], float]) -> Callable[[], float]:
        """Work whose nth time takes ``seconds(n)``."""
        count = 0

        def sample() -> float:
            nonlocal count
            took = seconds(count)
            count += 1
            self.now += took
            return took

        return sample


def benchmarker(time: Time, *series: Series) -> Benchmarker:
    return Benchmarker(lambda _content: list(series), {"engine": "none"}, time, time)


def series(sample: Callable[[], float | None], seconds: float = 1.0, name: str = "x_s") -> Series:
    return Series(seconds, sample, as_rate(name, 1.0, 1))


def finish(engine: Benchmarker, job: int = 1) -> list[Event]:
    engine.start(job, b"")
    events: list[Event] = []
    while engine.is_busy:
        events += engine.step()
    return events


def test_the_first_sample_warms_up_and_does_not_count() -> None:
    time = Time()
    engine = benchmarker(time, series(time.taking(lambda n: 50.0 if n == 0 else 0.1)))

    *_, finished = finish(engine)

    assert isinstance(finished, Finished)
    (figure,) = decode_figures(finished.output)
    assert (figure.least, figure.most) == (10.0, 10.0)
    assert figure.n == pytest.approx(10, abs=1)


def test_slow_samples_are_few_but_not_too_few() -> None:
    time = Time()
    *_, finished = finish(benchmarker(time, series(time.taking(lambda _: 1.0))))

    assert isinstance(finished, Finished)
    assert decode_figures(finished.output)[0].n == MIN_BENCH_SAMPLES


def test_a_machine_that_is_far_too_slow_ends_in_overtime() -> None:
    time = Time()
    began = time.now
    *_, finished = finish(benchmarker(time, series(time.taking(lambda _: 4.0))))

    assert isinstance(finished, Finished)
    assert decode_figures(finished.output)[0].n == 2
    assert time.now - began <= 4.0 + BENCH_OVERTIME + 4.0


def test_samples_are_bounded_however_quick_they_are() -> None:
    time = Time()
    *_, finished = finish(benchmarker(time, series(time.taking(lambda _: 0.0))))

    assert isinstance(finished, Finished)
    assert decode_figures(finished.output)[0].n == MAX_BENCH_SAMPLES


def test_nothing_slow_is_left_out() -> None:
    time = Time()
    outlier = time.taking(lambda n: 0.5 if n == 3 else 0.05)
    *_, finished = finish(benchmarker(time, series(outlier)))

    assert isinstance(finished, Finished)
    assert decode_figures(finished.output)[0].least == 2.0


def test_series_follow_each_other_and_progress_is_told_for_each() -> None:
    time = Time()
    prepared: list[str] = []
    made = [
        Series(
            0.1,
            time.taking(lambda _: 0.1),
            as_rate(name, 1.0, 1),
            lambda name=name: prepared.append(name),
        )
        for name in ("a_s", "b_s")
    ]

    events = finish(benchmarker(time, *made))

    progress = [(e.done, e.total) for e in events if isinstance(e, Advanced)]
    assert progress == sorted(set(progress))
    assert {(100, 200), (200, 200)} < set(progress)
    assert prepared == ["a_s", "b_s"]
    assert isinstance(events[-1], Finished)
    assert [f.name for f in decode_figures(events[-1].output)] == ["a_s", "b_s"]
    assert set(events[-1].timings) == {"queue_ms", "run_ms", "busy_ms", "cpu_ms"}


@pytest.mark.parametrize(("took_s", "seconds"), [(0.01, 30.0), (6.0, 30.0), (20.0, 5.0)])
def test_a_long_series_is_never_silent_for_long(took_s: float, seconds: float) -> None:
    time = Time()
    engine = benchmarker(time, series(time.taking(lambda _: took_s), seconds))
    engine.start(1, b"")
    silences, told_at = [], time.now

    while engine.is_busy:
        if engine.step():
            silences.append(time.now - told_at)
            told_at = time.now

    assert max(silences) <= max(2 * took_s, seconds / 40)


def test_two_jobs_take_turns_as_wholes() -> None:
    time = Time()
    engine = benchmarker(time, series(time.taking(lambda _: 0.5)))
    engine.start(1, b"")
    engine.start(2, b"")

    ended = [e.job for _ in range(40) for e in engine.step() if isinstance(e, Finished)]

    assert ended == [1, 2]


def test_a_part_of_a_sample_is_a_step_so_that_a_job_can_be_cancelled_in_between() -> None:
    engine = benchmarker(Time(), series(lambda: None))
    engine.start(1, b"")
    assert engine.step() == []

    engine.cancel(1)

    assert not engine.is_busy
    assert engine.step() == []


def test_what_breaks_breaks_its_job() -> None:
    def breaks() -> float:
        raise MemoryError

    (broken,) = finish(benchmarker(Time(), series(breaks)))

    assert isinstance(broken, Broken)
    assert isinstance(broken.error, MemoryError)


def test_a_benchmark_takes_no_memory_that_others_need() -> None:
    check_room(1 << 20, None)
    check_room(1 << 20, 4 << 20)
    with pytest.raises(BadInputError, match="over a quarter of the 3 MiB"):
        check_room(1 << 20, (4 << 20) - 1)
