"""Which jobs of this node have their result already: what makes a retried job id the same job.

The truth is the ``job.accepted`` records of our own feed; here is only where the journal has each,
for the latest ``MAX_ACCEPTED_JOBS``. Outputs are not kept: a job that is asked for again after its
acceptance runs again under a new fence, and is recorded as ``job.repeated``, never as accepted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.submissions import other_specification
from protocols.cid import CID
from protocols.job import Terms
from protocols.journal import Entry, RecordBody
from protocols.limits import MAX_ACCEPTED_JOBS
from protocols.record import Record

if TYPE_CHECKING:
    from peer.journal import Journal

ACCEPTED: Final = "job.accepted"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the record of an acceptance says, by its CID."""

    cid: CID
    fence: int
    kind: str
    model: str
    input_cid: bytes


class AcceptedJobs:
    """The latest accepted jobs, over restarts."""

    def __init__(self, journal: Journal) -> None:
        self._jobs: OrderedDict[bytes, Acceptance] = OrderedDict()
        for _, _, entry, body in journal.scan():
            if ACCEPTED.encode() not in body:  # decoding all takes minutes
                continue
            if entry is Entry.RECORD:
                self._restore(RecordBody.decode(body).record)
            elif entry is Entry.KEPT:
                self._restore(body, is_old=True)

    def needs(self, record: bytes) -> bool:
        """Say whether a record of ours is the acceptance of one of these jobs."""
        if ACCEPTED.encode() not in record:
            return False
        job_id = Record.decode_verified(record).attributes.get("job_id")
        accepted = self._jobs.get(job_id) if isinstance(job_id, bytes) else None
        return accepted is not None and accepted.cid == CID.of(record)

    def get(self, job_id: bytes) -> Acceptance | None:
        """Return how this job was accepted, if it was."""
        return self._jobs.get(job_id)

    def of(self, terms: Terms) -> Acceptance | None:
        """Return how this job was accepted before; raise ``Refused`` if another job was, under its
        id.
        """
        past = self._jobs.get(terms.job_id)
        if past is None:
            return None
        if (past.kind, past.model, past.input_cid) != (terms.kind, terms.model, terms.input_cid):
            raise other_specification()
        return past

    def add(self, job_id: bytes, acceptance: Acceptance) -> None:
        """Remember an acceptance that is durable."""
        self._jobs[job_id] = acceptance
        if len(self._jobs) > MAX_ACCEPTED_JOBS:
            self._jobs.popitem(last=False)

    def _restore(self, encoded: bytes, *, is_old: bool = False) -> None:
        record = Record.decode_verified(encoded)
        if record.kind != ACCEPTED:
            return
        match record.attributes:
            case {
                "job_id": bytes() as job_id,
                "fence": int() as fence,
                "kind": str() as kind,
                "model": str() as model,
                "input": CID() as input_cid,
            }:
                cid = CID.of(encoded)
                acceptance = Acceptance(cid, fence, kind, model, bytes(input_cid))
                if not is_old:
                    self.add(job_id, acceptance)
                elif job_id not in self._jobs and len(self._jobs) < MAX_ACCEPTED_JOBS:
                    # It stands behind newer ones in the journal, because it was written anew.
                    self._jobs[job_id] = acceptance
                    self._jobs.move_to_end(job_id, last=False)
            case _:
                pass  # written before these were recorded
