"""Turns a lineage into the answer that people and programs read: what made this, with what, where,
by whom, and how far it is proven.

Pure. The keys of the answer are stable; names inside ``software`` and ``hardware`` are those of the
records.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aggregator.lineage import Closure, attributes_of
from peer.rows import EdgeRow, RecordRow
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.prov import plain
from protocols.record import GENERATED, INFORMED_BY, USED

RUN = "job.run"
SUBMITTED = "job.submitted"
ACCEPTED = "job.accepted"
REGISTERED = "model.registered"


def explain(closure: Closure, verified: Mapping[bytes, bool]) -> dict[str, Any]:
    """Return the answer; ``verified`` says of each record whether its signed bytes were found and
    hold.

    ``verified`` of the whole answer means that every record listed is, not that nothing is missing;
    who adds what was redacted adds whether that is.
    """
    run, accepted = _accepted_run(closure)
    return {
        "cid": str(closure.start),
        "kind": _kind(closure),
        "verified": bool(closure.records)
        and all(verified.get(cid, False) for cid in closure.records),
        "outputs": _outputs(closure, run),
        "model": _model(closure, run),
        "input": _input(closure, run),
        "software": _block(closure, run.environment if run else None),
        "hardware": _block(closure, run.hardware if run else None),
        "worker": peer_id_of(run.feed) if run else None,
        "submitter": _submitter(closure, run, accepted),
        "execution": plain(attributes_of(run)) if run else None,
        "records": [
            _record(closure, row, verified.get(row.cid, False)) for row in closure.records.values()
        ],
        "missing": [
            {"cid": text(m.cid), "what": m.what, "needed_by": text(m.needed_by)}
            for m in closure.missing
        ],
        "is_cut": closure.is_cut,
    }


def text(cid: bytes) -> str:
    """Return the written form of a binary CID."""
    return str(CID(cid))


def moment(at_us: int) -> str:
    """Return a wall-clock time as ISO 8601, UTC; a peer's clock may have said anything."""
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{at_us} µs"


def _kind(closure: Closure) -> str:
    """Return the record's kind, or the role in which records name the entity."""
    if closure.is_record:
        return closure.records[closure.start].kind
    links = [link for links in closure.links.values() for link in links]
    roles = [link.role for link in links if link.target == closure.start and link.role]
    return roles[0] if roles else "entity"


def _outputs(closure: Closure, run: RecordRow | None) -> list[str]:
    return [text(link.target) for link in closure.targets(run.cid, GENERATED)] if run else []


def _used(closure: Closure, run: RecordRow | None, role: str) -> str | None:
    links = closure.targets(run.cid, USED) if run else []
    return next((text(link.target) for link in links if link.role == role), None)


def _model(closure: Closure, run: RecordRow | None) -> dict[str, Any] | None:
    registered = _registration(closure, run)
    attributes = attributes_of(registered) if registered else {}
    name = (attributes_of(run) if run else {}).get("model") or attributes.get("name")
    cid = _used(closure, run, "model")
    if cid is None and registered:
        cid = next((text(link.target) for link in closure.targets(registered.cid, GENERATED)), None)
    if cid is None and name is None:
        return None
    return {"name": name, "cid": cid, "registered": plain(attributes)}


def _registration(closure: Closure, run: RecordRow | None) -> RecordRow | None:
    """Return the registration of the model by the worker itself, else by whoever is nearest."""
    rows = [row for row in closure.records.values() if row.kind == REGISTERED]
    own = (row for row in rows if run is not None and row.feed == run.feed)
    return next(own, rows[0] if rows else None)


def _input(closure: Closure, run: RecordRow | None) -> str | None:
    """Return the input's commitment: the content itself is in no record."""
    cid = _used(closure, run, "input")
    submitted = closure.first(SUBMITTED)
    if cid is None and submitted:
        cid = next((text(link.target) for link in closure.targets(submitted.cid, GENERATED)), None)
    return cid


def _block(closure: Closure, cid: bytes | None) -> dict[str, Any] | None:
    """Return an environment or hardware record's content, with its CID."""
    if cid is None:
        return None
    row = closure.records.get(cid)
    return {"cid": text(cid), **(plain(attributes_of(row)) if row else {})}


def _accepted_run(closure: Closure) -> tuple[RecordRow | None, RecordRow | None]:
    """Return the run that made what was asked for and whose result was accepted, and its
    acceptance: both peers' own signed words that agree. Without one, the nearest such run: another
    attempt, or one nobody accepted yet. Runs that made something else, further up, tell nothing.
    """
    runs = {row.cid: row for row in closure.records.values() if _has_made(closure, row)}
    for accepted in (row for row in closure.records.values() if row.kind == ACCEPTED):
        for link in closure.targets(accepted.cid, INFORMED_BY):
            run = runs.get(link.target)
            if run is not None and _agree(run, accepted):
                return run, accepted
    return next(iter(runs.values()), None), None


def _has_made(closure: Closure, row: RecordRow) -> bool:
    """Whether a record is a run that made the entity that was asked for, or, of a record, that run
    or the one that it follows.
    """
    if row.kind != RUN:
        return False
    if not closure.is_record:
        return closure.start in (link.target for link in closure.targets(row.cid, GENERATED))
    followed = (link.target for link in closure.targets(closure.start, INFORMED_BY))
    return row.cid == closure.start or row.cid in followed


def _agree(run: RecordRow, accepted: RecordRow) -> bool:
    """Whether the worker names the submitter that signed the acceptance, and it the worker."""
    return attributes_of(accepted).get("worker") == peer_id_of(run.feed) and attributes_of(run).get(
        "submitter"
    ) == peer_id_of(accepted.feed)


def _submitter(closure: Closure, run: RecordRow | None, accepted: RecordRow | None) -> str | None:
    """Return who asked for the job: who signed its acceptance, else as the worker's record says."""
    own = accepted or (None if run else closure.first(SUBMITTED))
    if own is not None:
        return peer_id_of(own.feed)
    return plain(attributes_of(run).get("submitter")) if run else None


def _record(closure: Closure, row: RecordRow, is_verified: bool) -> dict[str, Any]:
    return {
        "cid": text(row.cid),
        "kind": row.kind,
        "peer": peer_id_of(row.feed),
        "epoch": row.epoch,
        "sequence": row.sequence,
        "start": moment(row.start_us) if row.start_us else None,
        "duration_us": row.duration_us,
        "status": row.status,
        "verified": is_verified,
        "used": [_link(link) for link in closure.targets(row.cid, USED)],
        "generated": [_link(link) for link in closure.targets(row.cid, GENERATED)],
        "informed_by": [text(link.target) for link in closure.targets(row.cid, INFORMED_BY)],
        "environment": text(row.environment) if row.environment else None,
        "hardware": text(row.hardware) if row.hardware else None,
        "attributes": plain(attributes_of(row)),
    }


def _link(link: EdgeRow) -> dict[str, str]:
    return {"cid": text(link.target), "role": link.role}
