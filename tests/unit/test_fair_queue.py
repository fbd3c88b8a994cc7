import pytest
from hypothesis import given, strategies as st

from node.fair_queue import MIN_INSIDE, UNKNOWN_S, Asker, FairQueue, Place, fair_wait_s
from protocols.limits import QUANTUM_S


def drain(queue: FairQueue) -> list[Place]:
    """Let one job in at a time, each until it is done, and return them in order."""
    order: list[Place] = []
    while (place := queue.enter()) is not None:
        order.append(place)
        queue.leave(place)
    return order


def everyone_inside(queue: FairQueue) -> list[Place]:
    inside: list[Place] = []
    while (place := queue.enter()) is not None:
        inside.append(place)
    return inside


def test_one_submitters_jobs_enter_in_their_order() -> None:
    queue = FairQueue(slots=1)
    places = [queue.join("a", 0.1) for _ in range(5)]

    assert drain(queue) == places


def test_a_thousand_jobs_delay_anothers_single_one_by_one_quantum() -> None:
    queue = FairQueue(slots=1)
    for _ in range(1_000):
        queue.join("greedy", 0.1)
    first = queue.enter()
    assert first is not None
    single = queue.join("modest", 0.1)
    queue.leave(first)

    order = drain(queue)

    before = order[: order.index(single)]
    assert sum(place.cost_s for place in before) <= QUANTUM_S
    assert len(order) == 1_000


def test_large_and_small_jobs_get_equal_seconds() -> None:
    queue = FairQueue(slots=1)
    for _ in range(10):
        queue.join("large", 2.0)
    for _ in range(200):
        queue.join("small", 0.1)

    order = drain(queue)[:110]

    seconds = {
        name: sum(p.cost_s for p in order if p.submitter == name) for name in ("large", "small")
    }
    assert abs(seconds["large"] - seconds["small"]) <= 2.0 + QUANTUM_S


def test_a_job_of_a_day_enters_without_counting_every_turn() -> None:
    queue = FairQueue(slots=1)
    day = queue.join("a", 86_400.0)
    other = queue.join("b", 1e9)

    assert drain(queue) == [day, other]


def test_a_submitter_that_has_a_quantum_inside_waits_for_itself_and_others_enter() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.join("greedy", 0.2)
    assert len(everyone_inside(queue)) == MIN_INSIDE
    single = queue.join("modest", 0.2)

    assert everyone_inside(queue) == [single]


def test_small_jobs_fill_the_runner_up_to_a_quantum() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.join("a", 0.01)

    assert len(everyone_inside(queue)) == round(QUANTUM_S / 0.01)


def test_jobs_that_nobody_can_estimate_count_for_something() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.join("a", None)

    assert len(everyone_inside(queue)) == round(QUANTUM_S / UNKNOWN_S)


def test_a_slot_is_free_again_when_its_job_left_and_who_gave_up_never_enters() -> None:
    queue = FairQueue(slots=1)
    first, second, third = (queue.join(name, 0.1) for name in "abc")
    assert queue.enter() is first
    assert queue.enter() is None

    queue.leave(second)
    queue.leave(first)

    assert queue.enter() is third
    queue.leave(third)
    assert len(queue) == 0


@given(
    slots=st.integers(1, 5),
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abcd"), st.sampled_from([None, 0.0, 0.1, 0.7, 30.0])),
            st.integers(0, 20),
        ),
        max_size=80,
    ),
)
def test_everyone_enters_once_unless_gone_and_slots_are_never_exceeded(
    slots: int, steps: list[tuple[str, float | None] | int]
) -> None:
    queue, known, inside = FairQueue(slots), list[Place](), list[Place]()
    for step in steps:
        if isinstance(step, tuple):
            known.append(queue.join(*step))
        elif known:
            gone = known.pop(step % len(known))
            queue.leave(gone)
            inside = [place for place in inside if place is not gone]
        entered = everyone_inside(queue)
        assert all(place in known and place not in inside for place in entered)
        inside += entered
        assert len(inside) <= slots
        assert len(inside) >= min(slots, len(known), 1), "somebody is let in"
        assert len(queue) == len(known)
    while known:
        queue.leave(inside[0])
        known.remove(inside.pop(0))
        inside += everyone_inside(queue)
    assert len(queue) == 0


@given(
    costs=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60),
    single_s=st.floats(0.001, QUANTUM_S),
    others=st.integers(1, 4),
)
def test_a_single_job_waits_for_no_more_than_a_turn_and_a_job_of_each_other(
    costs: list[float], single_s: float, others: int
) -> None:
    queue = FairQueue(slots=1)
    for name in range(others):
        for cost_s in costs:
            queue.join(str(name), cost_s)
    single = queue.join("single", single_s)

    order = drain(queue)

    before: dict[str, float] = {}
    for place in order[: order.index(single)]:
        before[place.submitter] = before.get(place.submitter, 0.0) + place.cost_s
    assert all(spent <= QUANTUM_S + max(costs) for spent in before.values())


@pytest.mark.parametrize(
    ("work_s", "cost_s", "wait_s"),
    [
        ({}, 1.0, 0.0),
        ({"me": 2.0}, 0.1, 2.0),
        ({"other": 100.0}, 0.1, 0.1 + QUANTUM_S),
        ({"other": 0.2}, 5.0, 0.2),
        ({"me": 1.0, "other": 100.0, "third": 0.3}, 0.0, 1.0 + 1.0 + QUANTUM_S + 0.3),
    ],
)
def test_the_wait_is_for_ones_own_work_and_for_the_turns_of_others(
    work_s: dict[str, float], cost_s: float, wait_s: float
) -> None:
    assert fair_wait_s(work_s, Asker("me", cost_s, {})) == pytest.approx(wait_s)
    assert fair_wait_s({}, Asker("me", cost_s, work_s)) == pytest.approx(wait_s)
