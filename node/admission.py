"""Whether this worker takes an offer: the submitter chooses among workers, and the worker decides
about itself.

A job is taken when its submitter may submit, its model is here, and it would wait at most
``MAX_QUEUE_S`` behind the work for the same model; a worker with nothing to do takes any job that
it expects to finish within the budget. Submitters take turns, so one's wait is not what all have
asked for: see ``node.backlog``. A benchmark waits as long as its budget allows, since it must run
alone; one at a time may. What nobody has measured yet counts as free.
"""

from __future__ import annotations

from typing import Final, Protocol

from node.backlog import Backlog, wait_s
from node.lanes import is_exclusive
from node.models import InstalledModel
from node.placement import AUTO
from protocols.errors import CoveyError
from protocols.job import (
    BUSY,
    DRAINING,
    EXPIRED,
    TOO_BIG,
    UNAUTHORISED,
    UNKNOWN_KIND,
    UNKNOWN_MODEL,
    UNKNOWN_PRECISION,
    UNMET_REQUIREMENT,
    Offer,
    Refuse,
)
from protocols.keys import PeerId
from protocols.limits import (
    BUSY_RETRY_S_MAX,
    BUSY_RETRY_S_MIN,
    MAX_BUDGET_MS,
    MAX_JOB_INPUT_BYTES,
    MAX_JOBS_PER_SUBMITTER,
    MAX_QUEUE_S,
    MAX_REASON_CHARS,
    MAX_WORKER_JOBS,
)
from protocols.membership import OFFER, may
from protocols.worker_job import Granted, Load

RETRY_MS: Final = 1_000
"""When to ask again where nothing better is known."""


class Roles(Protocol):
    """What admission asks of the directory."""

    def roles(self, peer_id: PeerId) -> tuple[str, ...]:
        """The roles of a member whose certificate is valid now."""
        ...


class Models(Protocol):
    """What admission asks of the model store."""

    def get(self, name: str) -> InstalledModel:
        """Return an installed model; raise ``CoveyError`` when it cannot be used."""
        ...


class Estimates(Protocol):
    """What admission asks of the runners."""

    def estimate_s(
        self, model: InstalledModel, precision: str, items: int, size_bytes: int
    ) -> float | None:
        """How long a job would take, None when nothing is known."""
        ...

    def backlog(self, model: InstalledModel, precision: str) -> Backlog:
        """What a new job of this model would find."""
        ...


class Admission:
    """Decides about offers. Set ``is_draining`` to refuse them all from then on."""

    def __init__(self, roles: Roles, models: Models, estimates: Estimates) -> None:
        self.is_draining = False
        self._roles = roles
        self._models = models
        self._estimates = estimates

    def decide(self, submitter: PeerId, offer: Offer, load: Load) -> Granted | Refuse:
        """Return the worker's answer to an offer."""
        refuse = self._refuse_job(submitter, offer)
        if refuse is not None:
            return refuse
        model = self._model_for(offer)
        return model if isinstance(model, Refuse) else self._weigh(submitter, offer, model, load)

    def _refuse_job(self, submitter: PeerId, offer: Offer) -> Refuse | None:
        """Refuse what would never run here."""
        if self.is_draining:
            return _no(offer, DRAINING, "this worker is stopping")
        if not may(self._roles.roles(submitter), OFFER):
            return _no(offer, UNAUTHORISED, "only submitters of this mesh may offer jobs")
        if offer.size_bytes > MAX_JOB_INPUT_BYTES:
            return _no(
                offer,
                TOO_BIG,
                f"it has {offer.size_bytes} bytes, and an input may have {MAX_JOB_INPUT_BYTES}",
            )
        if offer.requirements:
            unknown = ", ".join(sorted(offer.requirements))
            return _no(offer, UNMET_REQUIREMENT, f"this worker does not know about: {unknown}")
        return None

    def _model_for(self, offer: Offer) -> InstalledModel | Refuse:
        try:
            model = self._models.get(offer.model)
        except CoveyError as error:
            return _no(offer, UNKNOWN_MODEL, error.message)
        if model.kind != offer.kind:
            return _no(offer, UNKNOWN_KIND, f"{model.name} is here for {model.kind}")
        if offer.precision not in (AUTO, *model.precisions):
            offered = ", ".join(model.precisions)
            return _no(offer, UNKNOWN_PRECISION, f"{model.name} is here in {offered}")
        return model

    def _weigh(
        self, submitter: PeerId, offer: Offer, model: InstalledModel, load: Load
    ) -> Granted | Refuse:
        """Refuse what this worker can't take on now, else say when it would be done."""
        if load.jobs >= MAX_WORKER_JOBS:
            return _no(offer, BUSY, f"it has {load.jobs} jobs, as many as it may", RETRY_MS)
        if load.jobs_of_submitter >= MAX_JOBS_PER_SUBMITTER:
            yours = f"{load.jobs_of_submitter} of its jobs are yours, as many as may be"
            return _no(offer, BUSY, yours, RETRY_MS)
        precision = resolve_precision(model, offer.precision)
        known_s = self._estimates.estimate_s(model, precision, offer.items, offer.size_bytes)
        estimate_s, budget_s = known_s or 0.0, offer.budget_ms / 1_000
        if estimate_s >= budget_s:
            late = f"it would take {estimate_s:.1f} s, more than its budget of {budget_s:.1f} s"
            return _no(offer, EXPIRED, late)
        backlog = self._estimates.backlog(model, precision)
        ahead_s = wait_s(submitter, model, estimate_s, backlog, load.leased)
        if why := _why_later(model, ahead_s, budget_s - estimate_s, backlog, load):
            retry_s = min(max(ahead_s - MAX_QUEUE_S, BUSY_RETRY_S_MIN), BUSY_RETRY_S_MAX)
            return _no(offer, BUSY, why, int(retry_s * 1_000))
        return Granted(estimate_s, min(int((ahead_s + estimate_s) * 1_000), MAX_BUDGET_MS))


def _why_later(
    model: InstalledModel, ahead_s: float, spare_s: float, backlog: Backlog, load: Load
) -> str:
    """Return why a job should be offered again later; empty when it need not."""
    limit_s = min(MAX_QUEUE_S, spare_s)
    if is_exclusive(model.kind):
        limit_s = spare_s
        leased = sum(is_exclusive(job.terms.kind) for job in load.leased)
        if leased or backlog.has_benchmark_waiting:
            return f"benchmarks run alone, 1 may wait and does; {ahead_s:.1f} s are ahead of it"
    is_long = ahead_s > limit_s
    return f"{ahead_s:.1f} s of work are ahead, over {limit_s:.1f} s" if is_long else ""


def resolve_precision(model: InstalledModel, precision: str) -> str:
    """Return the precision to compute in: the model's declared one comes first in its list."""
    return model.precisions[0] if precision == AUTO else precision


def _no(offer: Offer, code: str, reason: str, retry_after_ms: int = 0) -> Refuse:
    return Refuse(offer.job_id, offer.fence, code, reason[:MAX_REASON_CHARS], retry_after_ms)
