from dataclasses import dataclass, field

import pytest

from node.admission import Admission
from node.fair_queue import Asker, fair_wait_s
from node.runner_room import NoRoom
from protocols.cid import CID
from protocols.job import Offer, Refuse, Terms
from protocols.limits import (
    MAX_JOB_INPUT_BYTES,
    MAX_JOB_OUTPUT_BYTES,
    MAX_JOBS_PER_SUBMITTER,
    MAX_SUBMITTER_INPUT_BYTES,
    MAX_WORKER_INPUT_BYTES,
    MAX_WORKER_JOBS,
)
from protocols.worker_job import Granted, Leased, Load
from tests.support.runners import FakeModels, model_of

IDLE = Load(0, 0)
MODELS = FakeModels({"m": model_of("m"), "n": model_of("n"), "b": model_of("b", "bench.compute")})


@dataclass
class Place:
    """Roles and estimates as a test wants them."""

    roles_of: tuple[str, ...] = ("submitter",)
    estimate: float | None = 1.0
    foreseen: float | None = None
    backlog: float = 0.0
    own_capabilities: dict[str, object] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict[str, float])
    has_benchmark: bool = False
    lacks_room: NoRoom | None = None

    def roles(self, _peer: str) -> tuple[str, ...]:
        return self.roles_of

    def estimate_s(self, _m: object, _p: str, _items: int, _size: int) -> float | None:
        return self.estimate

    def foreseen_s(self, _m: object, _p: str, units: int, _size: int) -> float | None:
        return self.foreseen and self.foreseen * units

    def backlog_s(self, _m: object, _p: str, asker: Asker) -> float:
        return fair_wait_s({asker.submitter: self.backlog, **self.others}, asker)

    def no_room(self, _m: object, _p: str) -> NoRoom | None:
        return self.lacks_room

    def is_benchmark_waiting(self) -> bool:
        return self.has_benchmark


def offer(budget_ms: int = 60_000, **changes: object) -> Offer:
    terms: dict[str, object] = {
        "job_id": b"j" * 16,
        "kind": "embed",
        "model": "m",
        "precision": "auto",
        "items": 3,
        "size_bytes": 10,
        "input_cid": bytes(CID.of(b"")),
        "input_salt": bytes(16),
        "output_salt": bytes(16),
        **changes,
    }
    return Terms(**terms).offer(1, budget_ms)  # type: ignore[arg-type]


def test_an_embedder_takes_jobs_that_classify_and_others_do_not() -> None:
    admission = Admission(Place(), MODELS, Place())

    assert isinstance(admission.decide("peer", offer(kind="classify"), IDLE), Granted)
    refused = admission.decide("peer", offer(kind="vad"), IDLE)

    assert isinstance(refused, Refuse)
    assert refused.code == "unknown-kind"


def leased(*estimates_s: float, submitter: str = "peer", **changes: object) -> Load:
    """Jobs of these estimates that have not begun."""
    terms = Terms.of(offer(**changes))  # type: ignore[arg-type]
    jobs = tuple(Leased(submitter, terms, estimate_s) for estimate_s in estimates_s)
    return Load(len(jobs), len(jobs), jobs)


def decide(place: Place, asked: Offer, load: Load = IDLE) -> Granted | Refuse:
    return Admission(place, MODELS, place).decide("peer", asked, load)


def code(place: Place, asked: Offer, load: Load = IDLE) -> str:
    answer = decide(place, asked, load)
    assert isinstance(answer, Refuse)
    assert (answer.job_id, answer.fence) == (asked.job_id, asked.fence)
    return answer.code


def test_an_idle_worker_takes_a_job_and_says_when_it_would_be_done() -> None:
    assert decide(Place(), offer()) == Granted(1.0, 1_000)
    assert decide(Place(estimate=None), offer()) == Granted(0.0, 0)
    assert decide(Place(backlog=0.5), offer(), leased(0.25)) == Granted(1.0, 1_750)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "other"}, "unknown-model"),
        ({"model": "../../etc"}, "unknown-model"),
        ({"kind": "generate"}, "unknown-kind"),
        ({"precision": "int4"}, "unknown-precision"),
        ({"size_bytes": MAX_JOB_INPUT_BYTES + 1}, "too-big"),
        ({"requirements": {"device": "cuda"}}, "unmet-requirement"),
    ],
)
def test_what_would_never_run_here_is_refused_for_good(
    changes: dict[str, object], expected: str
) -> None:
    assert code(Place(), offer(**changes)) == expected


def test_a_job_is_refused_whose_requirements_this_machine_does_not_meet() -> None:
    place = Place(own_capabilities={"memory_gb": 8.0, "matmul_gflops": 90.0})

    def reason(**requirements: object) -> str | None:
        answer = decide(place, offer(requirements=requirements))
        return answer.reason if isinstance(answer, Refuse) else None

    assert reason(device="cpu", min_memory_mb=8_000, min_speed=90.0) is None
    assert reason(device="cuda") == "has no cuda"
    assert reason(min_memory_mb=9_000) == "has 8000 MB of memory, not 9000"
    assert reason(min_speed=91) == "computes 90 GFLOP/s, not 91"
    assert reason(colour="red", age=3) == "this worker does not know about: age, colour"
    assert "not understood" in str(reason(min_speed="fast"))


def test_only_submitters_may_offer() -> None:
    assert code(Place(roles_of=("worker",)), offer()) == "unauthorised"
    assert code(Place(roles_of=()), offer()) == "unauthorised"


def test_a_long_queue_is_refused_with_the_time_to_ask_again() -> None:
    answer = decide(Place(backlog=3.5), offer())

    assert isinstance(answer, Refuse)
    assert (answer.code, answer.retry_after_ms) == ("busy", 2_500)
    assert code(Place(), offer(), leased(0.4, 0.4, 0.3)) == "busy"


def test_a_job_that_can_not_end_within_its_budget_is_refused() -> None:
    assert code(Place(estimate=5.0), offer(budget_ms=4_000)) == "expired"
    assert code(Place(estimate=None), offer(budget_ms=0)) == "expired"
    assert code(Place(estimate=0.5, backlog=0.9), offer(budget_ms=1_000)) == "busy"


def test_jobs_are_bounded_in_all_and_for_each_submitter() -> None:
    assert code(Place(), offer(), Load(MAX_WORKER_JOBS, 0)) == "busy"
    assert code(Place(), offer(), Load(300, MAX_JOBS_PER_SUBMITTER)) == "busy"


@pytest.mark.parametrize(
    ("load", "free_bytes", "numbers"),
    [
        (
            Load(9, 1, input_bytes=MAX_WORKER_INPUT_BYTES - 10),
            10,
            (str(MAX_WORKER_INPUT_BYTES - 10), str(MAX_WORKER_INPUT_BYTES)),
        ),
        (
            Load(9, 1, (), MAX_SUBMITTER_INPUT_BYTES, MAX_SUBMITTER_INPUT_BYTES - 10),
            10,
            (f"{MAX_SUBMITTER_INPUT_BYTES - 10} bytes of your", str(MAX_SUBMITTER_INPUT_BYTES)),
        ),
    ],
    ids=["in all", "of one submitter"],
)
def test_inputs_are_bounded_in_all_and_for_each_submitter(
    load: Load, free_bytes: int, numbers: tuple[str, ...]
) -> None:
    assert isinstance(decide(Place(), offer(size_bytes=free_bytes), load), Granted)

    answer = decide(Place(), offer(size_bytes=free_bytes + 1), load)

    assert isinstance(answer, Refuse)
    assert answer.code == "busy"
    assert answer.retry_after_ms > 0
    assert all(number in answer.reason for number in numbers)


def test_who_has_nothing_at_a_worker_may_bring_the_largest_input_beside_a_greedy_one() -> None:
    greedy = Load(2, 0, input_bytes=MAX_SUBMITTER_INPUT_BYTES)

    assert isinstance(decide(Place(), offer(size_bytes=MAX_JOB_INPUT_BYTES), greedy), Granted)


def test_a_draining_worker_refuses_everything() -> None:
    place = Place()
    admission = Admission(place, FakeModels({"m": model_of("m")}), place)
    admission.is_draining = True

    answer = admission.decide("peer", offer(), IDLE)

    assert isinstance(answer, Refuse)
    assert answer.code == "draining"


def test_one_benchmark_may_wait_until_it_is_alone_and_a_second_is_told_when_to_ask_again() -> None:
    benchmark = offer(model="b", kind="bench.compute")
    one_leased = leased(0.1, model="b", kind="bench.compute")

    assert isinstance(decide(Place(), benchmark), Granted)
    assert isinstance(decide(Place(has_benchmark=True), offer()), Granted)
    for place, load in ((Place(has_benchmark=True), IDLE), (Place(), one_leased)):
        answer = decide(place, benchmark, load)
        assert isinstance(answer, Refuse)
        assert (answer.code, answer.retry_after_ms > 0) == ("busy", True)
        assert "1 benchmark" in answer.reason


def test_what_nobody_has_seen_is_promised_as_the_machine_makes_it_expected() -> None:
    fresh = Place(estimate=None, foreseen=2.0)

    assert decide(fresh, offer(budget_ms=10**7)) == Granted(6.0, 6_000)
    assert decide(fresh, offer(budget_ms=10**7, tokens=500)) == Granted(1_000.0, 1_000_000)


def test_nothing_is_refused_for_what_is_only_foreseen() -> None:
    assert isinstance(decide(Place(estimate=None, foreseen=2.0), offer(budget_ms=1_000)), Granted)
    assert code(Place(estimate=6.0), offer(budget_ms=1_000)) == "expired"


def test_a_job_of_which_nothing_is_known_gets_no_promise_and_a_short_one_does() -> None:
    assert decide(Place(estimate=None), offer()) == Granted(0.0, 0)
    assert decide(Place(estimate=1e-5), offer()) == Granted(1e-5, 1)


def test_only_the_same_model_in_the_same_precision_is_waited_for() -> None:
    load = leased(5.0, model="m", precision="bf16")

    assert decide(Place(), offer(model="n"), load) == Granted(1.0, 1_000)
    assert decide(Place(), offer(precision="fp32"), load) == Granted(1.0, 1_000)
    assert code(Place(), offer(precision="bf16"), load) == "busy"


def test_auto_waits_for_the_precision_that_it_stands_for() -> None:
    assert code(Place(), offer(), leased(5.0, precision="fp32")) == "busy"
    assert code(Place(), offer(precision="fp32"), leased(5.0)) == "busy"
    assert decide(Place(), offer(), leased(5.0, precision="bf16")) == Granted(1.0, 1_000)


def test_a_benchmark_waits_for_every_model_and_every_model_for_a_benchmark() -> None:
    benchmark = offer(model="b", kind="bench.compute")

    for submitter in ("peer", "another"):
        others = leased(5.0, submitter=submitter, model="n")
        bench = leased(5.0, submitter=submitter, model="b", kind="bench.compute")
        assert code(Place(), benchmark, others) == "busy"
        assert code(Place(), offer(), bench) == "busy"


def test_a_small_job_is_taken_although_another_submitter_has_a_long_queue() -> None:
    greedy = Place(estimate=0.1, others={"greedy": 500.0})

    assert decide(greedy, offer()) == Granted(0.1, int((0.1 + 0.5 + 0.1) * 1_000))
    assert decide(greedy, offer(), leased(5.0, submitter="third")) != Granted(0.1, 700)
    assert code(Place(estimate=0.1, backlog=500.0), offer()) == "busy", "its own queue"


@pytest.mark.parametrize(
    ("place", "load", "budget_ms", "numbers", "is_retried"),
    [
        (Place(backlog=3.5), IDLE, 60_000, ("3.5 s", "1.0 s"), True),
        (Place(), Load(MAX_WORKER_JOBS, 0), 60_000, ("1024 jobs", "1024"), True),
        (Place(), Load(300, MAX_JOBS_PER_SUBMITTER), 60_000, ("256 of your", "256"), True),
        (Place(estimate=5.0), IDLE, 4_000, ("5.0 s", "4.0 s"), False),
        (Place(estimate=0.5, backlog=0.9), IDLE, 1_000, ("0.9 s", "0.5 s"), True),
    ],
)
def test_a_refusal_says_how_much_there_is_and_when_to_ask_again(
    place: Place, load: Load, budget_ms: int, numbers: tuple[str, ...], is_retried: bool
) -> None:
    answer = decide(place, offer(budget_ms), load)

    assert isinstance(answer, Refuse)
    assert all(number in answer.reason for number in numbers)
    assert (answer.retry_after_ms > 0) == is_retried


def test_a_job_is_refused_while_no_runner_can_hold_its_model() -> None:
    for_now = decide(Place(lacks_room=NoRoom("all 4 are working", False, 2.0)), offer())
    for_good = decide(Place(lacks_room=NoRoom("it takes 9 MiB", True)), offer())

    assert isinstance(for_now, Refuse)
    assert (for_now.code, for_now.retry_after_ms) == ("busy", 2_000)
    assert isinstance(for_good, Refuse)
    assert (for_good.code, for_good.retry_after_ms) == ("too-little-memory", 0)


def test_texts_whose_vectors_would_be_too_much_are_refused_before_they_are_sent() -> None:
    dimension = MODELS.get("m").dimension
    most = MAX_JOB_OUTPUT_BYTES // (4 * dimension)

    assert code(Place(), offer(items=most)) == "too-big"
    assert isinstance(decide(Place(), offer(items=most - 16)), Granted)
    assert isinstance(decide(Place(), offer(items=most, kind="classify")), Granted)
