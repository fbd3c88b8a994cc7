"""How long a job that is offered now would wait here: behind what can't be overtaken, and behind
its submitter's share of what can.

Pure: the runners say what they have, the worker what it has leased; here it is added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node.fair_queue import fair_wait_s
from node.lanes import is_exclusive
from node.models import InstalledModel
from protocols.worker_job import WorkerJob


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the runners have to do before they come to a new job of one model: what is done before
    it whoever asks, and what waits of each submitter. ``has_benchmark_waiting`` is the lane's.
    """

    before_s: float = 0.0
    waiting_s: Mapping[str, float] = field(default_factory=dict[str, float])
    has_benchmark_waiting: bool = False


def wait_s(
    submitter: str,
    model: InstalledModel,
    cost_s: float,
    backlog: Backlog,
    leased: Sequence[WorkerJob],
) -> float:
    """Return how long a job of this submitter waits. ``leased`` has all jobs whose runs have not
    begun: a benchmark waits for each, other jobs for those of their model and for benchmarks.
    """
    if is_exclusive(model.kind):
        ahead_s = sum(job.estimate_s for job in leased)
        return backlog.before_s + sum(backlog.waiting_s.values()) + ahead_s
    before_s, waiting_s = backlog.before_s, dict(backlog.waiting_s)
    for job in leased:
        if job.terms.model == model.name:
            waiting_s[job.submitter] = waiting_s.get(job.submitter, 0.0) + job.estimate_s
        elif is_exclusive(job.terms.kind):
            before_s += job.estimate_s
    own_s = waiting_s.pop(submitter, 0.0)
    return before_s + fair_wait_s(own_s, list(waiting_s.values()), cost_s)
