"""Whether this worker takes an offer: the submitter chooses among workers, and the worker decides
about itself.

A job is taken when its submitter may submit, its model is here, and what it would wait for the same
model in the same precision, taking turns with other submitters, is at most ``MAX_QUEUE_S``; a
worker with nothing to do takes any job that it expects to finish within the budget. Nothing is
refused for what is only foreseen and was not seen; but it is what is promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from node.fair_queue import Asker
from node.lanes import runs_alone
from node.needs import AUTO, serves
from node.offered_model import OfferedModel
from node.requirements import unmet
from node.runner.kinds.embed import is_too_much
from node.runner_room import NoRoom
from protocols.errors import CoveyError
from protocols.job import (
    BUSY,
    DRAINING,
    EXPIRED,
    TOO_BIG,
    TOO_LITTLE_MEMORY,
    UNAUTHORISED,
    UNKNOWN_KIND,
    UNKNOWN_MODEL,
    UNKNOWN_PRECISION,
    UNMET_REQUIREMENT,
    Offer,
    Refuse,
    Terms,
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
    MAX_SUBMITTER_INPUT_BYTES,
    MAX_WORKER_INPUT_BYTES,
    MAX_WORKER_JOBS,
)
from protocols.membership import OFFER, may
from protocols.worker_job import Granted, Load

EMBED: Final = "embed"
RETRY_MS: Final = 1_000
"""When to ask again where nothing better is known."""


class Roles(Protocol):
    """What admission asks of the directory."""

    def roles(self, peer_id: PeerId) -> tuple[str, ...]:
        """The roles of a member whose certificate is valid now."""
        ...

    @property
    def own_capabilities(self) -> Mapping[str, Any]:
        """What our own advert says of this machine."""
        ...


class Models(Protocol):
    """What admission asks of the models."""

    def get(self, name: str) -> OfferedModel:
        """Return the model of that name; raise ``CoveyError`` when it cannot be used."""
        ...


class Estimates(Protocol):
    """What admission asks of the runners."""

    def estimate_s(
        self, model: OfferedModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """How long a job would take by those before it, None when they do not tell."""
        ...

    def foreseen_s(
        self, model: OfferedModel, precision: str, units: int, size_bytes: int
    ) -> float | None:
        """How long one of which that is not known will take, going by the machine; None when
        nothing can be said.
        """
        ...

    def backlog_s(self, model: OfferedModel, precision: str, asker: Asker) -> float:
        """How long a job would wait for what the model's runner has and will get before it."""
        ...

    def no_room(self, model: OfferedModel, precision: str) -> NoRoom | None:
        """Why no runner could hold the model now; None when one does, or could."""
        ...

    def is_benchmark_waiting(self) -> bool:
        """Whether a benchmark waits until it is alone."""
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
            said = f"an input may have {MAX_JOB_INPUT_BYTES} bytes, not {offer.size_bytes}"
            return _no(offer, TOO_BIG, said)
        if (why := unmet(offer.requirements, self._roles.own_capabilities)) is not None:
            return _no(offer, UNMET_REQUIREMENT, why)
        return None

    def _model_for(self, offer: Offer) -> OfferedModel | Refuse:
        try:
            model = self._models.get(offer.model)
        except CoveyError as error:
            return _no(offer, UNKNOWN_MODEL, error.message)
        if not serves(model, offer.kind):
            return _no(offer, UNKNOWN_KIND, f"{model.name} is here for {model.kind}")
        if offer.precision not in (AUTO, *model.precisions):
            offered = ", ".join(model.precisions)
            return _no(offer, UNKNOWN_PRECISION, f"{model.name} is here in {offered}")
        if offer.kind == EMBED and is_too_much(offer.items, model.dimension):
            return _no(offer, TOO_BIG, f"{offer.items} vectors are more than an output may hold")
        return model.used_for(offer.kind)

    def _weigh(
        self, submitter: PeerId, offer: Offer, model: OfferedModel, load: Load
    ) -> Granted | Refuse:
        """Refuse what this worker can't take on now, else say when it would be done."""
        if full := self._is_full(offer, load):
            return _no(offer, BUSY, full, RETRY_MS)
        precision = resolve_precision(model, offer.precision)
        if no_room := self._estimates.no_room(model, precision):
            return _without_room(offer, model, no_room)
        sizes = model, precision, Terms.of(offer).units, offer.size_bytes
        estimate_s = self._estimates.estimate_s(*sizes)
        left_s = offer.budget_ms / 1_000
        known_s = estimate_s or 0.0
        spare_s = left_s - known_s
        if spare_s <= 0:
            return _no(
                offer,
                EXPIRED,
                f"it takes {known_s:.1f} s, more than its budget of {left_s:.1f} s",
            )
        if estimate_s is None:
            estimate_s = self._estimates.foreseen_s(*sizes)
        asker = Asker(submitter, estimate_s or 0.0, _leased_s(submitter, load, model, precision))
        wait_s = self._estimates.backlog_s(model, precision, asker)
        limit_s = min(MAX_QUEUE_S, spare_s)
        if wait_s > limit_s:
            said = f"{wait_s:.1f} s of work are waiting for {model.name}, over {limit_s:.1f} s"
            return _no(offer, BUSY, said, _retry_ms(wait_s - limit_s))
        return Granted(estimate_s or 0.0, _promised_ms(wait_s, estimate_s))

    def _is_full(self, offer: Offer, load: Load) -> str:
        """Say what there would be too much of; empty when there is room."""
        if full := _over_limit(offer, load):
            return full
        if not runs_alone(offer.kind):
            return ""
        is_leased = any(runs_alone(job.terms.kind) for job in load.leased)
        if is_leased or self._estimates.is_benchmark_waiting():
            return "1 benchmark is waiting to be alone here already, the limit is 1"
        return ""


def _over_limit(offer: Offer, load: Load) -> str:
    """Say which limit this offer would pass beside what is here; empty when it fits in."""
    size_bytes, mine_bytes = offer.size_bytes, load.input_bytes_of_submitter
    for here, more, limit, what in (
        (load.jobs, 1, MAX_WORKER_JOBS, "jobs"),
        (load.jobs_of_submitter, 1, MAX_JOBS_PER_SUBMITTER, "of your jobs"),
        (load.input_bytes, size_bytes, MAX_WORKER_INPUT_BYTES, "bytes of inputs"),
        (mine_bytes, size_bytes, MAX_SUBMITTER_INPUT_BYTES, "bytes of your inputs"),
    ):
        if here + more > limit:
            return f"{here} {what} are here, the limit is {limit}"
    return ""


def _promised_ms(wait_s: float, estimate_s: float | None) -> int:
    """Return when a job will be done; 0 means that nothing is known, and is never a promise."""
    least = 0 if estimate_s is None else 1
    return min(max(int((wait_s + (estimate_s or 0.0)) * 1_000), least), MAX_BUDGET_MS)


def _without_room(offer: Offer, model: OfferedModel, no_room: NoRoom) -> Refuse:
    said = f"no room for {model.name}: {no_room.reason}"
    if no_room.is_lasting:
        return _no(offer, TOO_LITTLE_MEMORY, said)
    return _no(offer, BUSY, said, _retry_ms(no_room.retry_s))


def _retry_ms(wait_s: float) -> int:
    return int(min(max(wait_s, BUSY_RETRY_S_MIN), BUSY_RETRY_S_MAX) * 1_000)


def resolve_precision(model: OfferedModel, precision: str) -> str:
    """Return the precision to compute in: the model's declared one comes first in its list."""
    return model.precisions[0] if precision == AUTO else precision


def _leased_s(asker: PeerId, load: Load, model: OfferedModel, precision: str) -> dict[str, float]:
    """Return what was promised to each submitter of the work that a job of this model waits for. A
    benchmark waits for all and all wait for one, to its end: that counts as the asker's own.
    """
    leased_s: dict[str, float] = {}
    shared = (model.kind, model.name, precision)
    for submitter, terms, estimate_s in load.leased:
        if runs_alone(terms.kind) or runs_alone(model.kind):
            leased_s[asker] = leased_s.get(asker, 0.0) + estimate_s
        elif (terms.kind, terms.model, resolve_precision(model, terms.precision)) == shared:
            leased_s[submitter] = leased_s.get(submitter, 0.0) + estimate_s
    return leased_s


def _no(offer: Offer, code: str, reason: str, retry_after_ms: int = 0) -> Refuse:
    return Refuse(offer.job_id, offer.fence, code, reason[:MAX_REASON_CHARS], retry_after_ms)
