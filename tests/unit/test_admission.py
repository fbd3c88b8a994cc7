from dataclasses import dataclass, field

import pytest

from node.admission import Admission
from node.backlog import Backlog
from protocols.cid import CID
from protocols.job import Offer, Refuse, Terms
from protocols.lease import LeaseClock
from protocols.limits import MAX_JOB_INPUT_BYTES, MAX_JOBS_PER_SUBMITTER, MAX_WORKER_JOBS
from protocols.pieces import Incoming
from protocols.worker_job import Granted, Load, WorkerJob
from tests.support.runners import FakeModels, model_of

IDLE = Load(0, 0)


@dataclass
class Place:
    """Roles and estimates as a test wants them."""

    roles_of: tuple[str, ...] = ("submitter",)
    estimate: float | None = 1.0
    before_s: float = 0.0
    waiting_s: dict[str, float] = field(default_factory=dict[str, float])
    has_benchmark_waiting: bool = False

    def roles(self, _peer: str) -> tuple[str, ...]:
        return self.roles_of

    def estimate_s(self, _m: object, _p: str, _items: int, _size: int) -> float | None:
        return self.estimate

    def backlog(self, _m: object, _p: str) -> Backlog:
        return Backlog(self.before_s, self.waiting_s, self.has_benchmark_waiting)


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


MODELS = FakeModels({"m": model_of("m"), "b": model_of("b", "bench.compute")})
BENCHMARK: dict[str, object] = {"model": "b", "kind": "bench.compute"}


def leased(submitter: str, estimate_s: float, **changes: object) -> WorkerJob:
    terms = Terms.of(offer(**changes))
    empty = Incoming(b"", 0)
    return WorkerJob(submitter, terms, 1, estimate_s, 60.0, LeaseClock(0.0), empty)


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
    assert decide(Place(before_s=0.5), offer(), Load(1, 1, [leased("peer", 0.25)])) == Granted(
        1.0, 1_750
    )


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


def test_only_submitters_may_offer() -> None:
    assert code(Place(roles_of=("worker",)), offer()) == "unauthorised"
    assert code(Place(roles_of=()), offer()) == "unauthorised"


def test_a_long_queue_is_refused_with_the_time_to_ask_again() -> None:
    answer = decide(Place(before_s=3.5), offer())

    assert isinstance(answer, Refuse)
    assert (answer.code, answer.retry_after_ms) == ("busy", 2_500)
    assert code(Place(), offer(), Load(3, 3, [leased("peer", 1.1)])) == "busy"


def test_a_job_that_can_not_end_within_its_budget_is_refused() -> None:
    assert code(Place(estimate=5.0), offer(budget_ms=4_000)) == "expired"
    assert code(Place(estimate=None), offer(budget_ms=0)) == "expired"
    assert code(Place(estimate=0.5, before_s=0.9), offer(budget_ms=1_000)) == "busy"


def test_jobs_are_bounded_in_all_and_for_each_submitter() -> None:
    for load, limit in (
        (Load(MAX_WORKER_JOBS, 0), MAX_WORKER_JOBS),
        (Load(300, MAX_JOBS_PER_SUBMITTER), MAX_JOBS_PER_SUBMITTER),
    ):
        answer = decide(Place(), offer(), load)

        assert isinstance(answer, Refuse)
        assert (answer.code, answer.retry_after_ms) == ("busy", 1_000)
        assert str(limit) in answer.reason


def test_only_work_for_the_same_model_is_waited_for() -> None:
    other = leased("peer", 9.0, model="other")

    assert decide(Place(), offer(), Load(1, 1, [other])) == Granted(1.0, 1_000)


def test_a_submitter_waits_for_its_share_and_not_for_all_that_another_has_asked_for() -> None:
    others = Load(2, 0, [leased("greedy", 30.0), leased("greedy", 30.0)])

    assert decide(Place(estimate=0.2), offer(), others) == Granted(0.2, 400)
    assert code(Place(waiting_s={"peer": 1.1}), offer()) == "busy"
    assert code(Place(estimate=0.2, waiting_s={"peer": 0.9}), offer(), others) == "busy"


def test_a_benchmark_waits_for_everything_as_long_as_its_budget_allows() -> None:
    busy = Load(1, 1, [leased("peer", 9.0, model="other")])

    assert decide(Place(before_s=20.0), offer(**BENCHMARK), busy) == Granted(1.0, 30_000)
    assert code(Place(before_s=60.0), offer(**BENCHMARK), busy) == "busy"


def test_one_benchmark_may_wait() -> None:
    before = Load(1, 1, [leased("peer", 1.0, **BENCHMARK)])

    assert code(Place(), offer(**BENCHMARK), before) == "busy"
    assert code(Place(has_benchmark_waiting=True), offer(**BENCHMARK)) == "busy"


def test_a_benchmark_that_is_about_to_run_makes_other_jobs_ask_later() -> None:
    answer = decide(Place(), offer(), Load(1, 0, [leased("other", 4.0, **BENCHMARK)]))

    assert isinstance(answer, Refuse)
    assert (answer.code, answer.retry_after_ms) == ("busy", 3_000)


def test_a_draining_worker_refuses_everything() -> None:
    place = Place()
    admission = Admission(place, FakeModels({"m": model_of("m")}), place)
    admission.is_draining = True

    answer = admission.decide("peer", offer(), IDLE)

    assert isinstance(answer, Refuse)
    assert answer.code == "draining"
