from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.fair_queue import COST_S_MIN, FairQueue, fair_wait_s

QUANTUM_S = 0.5

submitters = st.sampled_from(["a", "b", "c"])
costs = st.sampled_from([0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 20.0]) | st.floats(0, 5)


def queue_of(*jobs: tuple[str, int, float]) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM_S)
    for submitter, number, cost_s in jobs:
        queue.push(submitter, (submitter, number), cost_s)
    return queue


def test_one_job_passes_a_thousand_of_another_submitter_after_one_quantum() -> None:
    queue = queue_of(*(("greedy", n, 0.1) for n in range(1_000)))
    queue.pop()
    queue.push("modest", ("modest", 0), 0.1)

    order = [queue.pop() for _ in range(6)]

    assert order.index(("modest", 0)) <= QUANTUM_S / 0.1


def test_jobs_of_one_submitter_stay_in_order() -> None:
    queue = queue_of(("a", 1, 9.0), ("a", 2, 0.1), ("b", 1, 0.1))

    assert [queue.pop() for _ in range(4)] == [("b", 1), ("a", 1), ("a", 2), None]


def test_who_asks_for_long_jobs_gets_no_more_time_than_who_asks_for_short_ones() -> None:
    queue = queue_of(
        *(("long", n, 2.0) for n in range(10)), *(("short", n, 0.1) for n in range(99))
    )
    spent_s = Counter[str]()

    for _ in range(60):
        job = queue.pop()
        assert job is not None
        spent_s[job[0]] += 20 if job[0] == "long" else 1

    assert abs(spent_s["long"] - spent_s["short"]) <= 25


def test_jobs_of_unknown_cost_take_turns_too() -> None:
    queue = queue_of(*(("greedy", n, 0.0) for n in range(1_000)), ("modest", 0, 0.0))

    order = [queue.pop() for _ in range(1_001)]

    assert order.index(("modest", 0)) <= QUANTUM_S / COST_S_MIN


def test_a_removed_job_does_not_come_out_and_is_waited_for_by_nobody() -> None:
    job = ("a", 1)
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM_S)
    queue.push("a", job, 3.0)

    queue.remove("a", job)
    queue.remove("a", job)

    assert (queue.pop(), len(queue), queue.waiting_s()) == (None, 0, {})


def test_an_hour_is_paid_for_in_one_step() -> None:
    queue = queue_of(("a", 1, 86_400.0), ("b", 1, 3_600.0))

    assert [queue.pop(), queue.pop()] == [("b", 1), ("a", 1)]


def test_jobs_that_wait_are_priced_anew() -> None:
    queue = queue_of(("a", 1, 0.0), ("a", 2, 0.0))

    queue.reprice(lambda job: float(job[1]))

    assert queue.waiting_s() == {"a": 3.0}


def test_a_small_job_waits_for_its_own_line_and_a_share_of_the_others() -> None:
    assert fair_wait_s(0.0, [], 1.0) == 0.0
    assert fair_wait_s(0.0, [100.0, 100.0], 0.1) == 0.2
    assert fair_wait_s(2.0, [1.0], 0.1) == 3.0


class QueueMachine(RuleBasedStateMachine):
    """Whatever is pushed, popped and removed, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[tuple[str, int, float]] = FairQueue(QUANTUM_S)
        self.waiting: dict[str, deque[tuple[str, int, float]]] = {}
        self.number = 0

    @rule(submitter=submitters, cost_s=costs)
    def push(self, submitter: str, cost_s: float) -> None:
        self.number += 1
        job = (submitter, self.number, cost_s)
        self.queue.push(submitter, job, cost_s)
        self.waiting.setdefault(submitter, deque()).append(job)

    @precondition(lambda self: self.waiting)
    @rule()
    def pop(self) -> None:
        job = self.queue.pop()
        assert job is not None
        self.took(job)

    @rule(submitter=submitters)
    def pop_of(self, submitter: str) -> None:
        job = self.queue.pop_of(submitter)
        assert (job is None) == (submitter not in self.waiting)
        if job is not None:
            self.took(job)

    @precondition(lambda self: self.waiting)
    @rule(draw=st.data())
    def remove(self, draw: st.DataObject) -> None:
        submitter = draw.draw(st.sampled_from(sorted(self.waiting)))
        job = draw.draw(st.sampled_from(list(self.waiting[submitter])))
        self.queue.remove(submitter, job)
        self.forget(job)

    def took(self, job: tuple[str, int, float]) -> None:
        assert self.waiting[job[0]][0] == job, "one submitter's jobs stay in order"
        self.forget(job)

    def forget(self, job: tuple[str, int, float]) -> None:
        self.waiting[job[0]].remove(job)
        if not self.waiting[job[0]]:
            del self.waiting[job[0]]

    @invariant()
    def it_holds_what_waits(self) -> None:
        assert len(self.queue) == sum(len(jobs) for jobs in self.waiting.values())
        assert set(self.queue.submitters()) == set(self.waiting)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(submitters, costs), max_size=60), costs)
def test_no_one_job_waits_for_more_than_a_round_of_each_other(
    jobs: list[tuple[str, float]], cost_s: float
) -> None:
    queue: FairQueue[tuple[str, int, float]] = FairQueue(QUANTUM_S)
    for number, (submitter, cost) in enumerate(jobs):
        queue.push(submitter, (submitter, number, cost), cost)
    single = ("single", 0, cost_s)
    queue.push("single", single, cost_s)
    before_s = Counter[str]()

    while (job := queue.pop()) != single:
        assert job is not None
        before_s[job[0]] += max(job[2], COST_S_MIN)  # type: ignore[assignment]

    rounds = max(cost_s, COST_S_MIN) / QUANTUM_S + 1
    assert all(spent_s <= (rounds + 1) * QUANTUM_S + 1e-6 for spent_s in before_s.values())
