"""OpenLineage: a run a record, as JSON lines of two run events, START and how it ended.

Datasets are what CIDs name, in the namespace ``ipfs``; a dataset's facet ``covey`` says in which
role, the run's says the rest. Environments and hardware have no time and are no runs: they are
inputs of those that name them. A time that no calendar holds is told as 1970, beside the
microseconds that the author wrote. Behind the runs, an event of the type OTHER for each record that
was redacted, for OpenLineage has no word for it. See https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from peer.excerpts import Erased, Excerpt
from peer.exports.prov_json import moment
from protocols.cid import CID
from protocols.excerpt import Part
from protocols.keys import peer_id_of
from protocols.prov import plain
from protocols.record import Link, Record

PRODUCER: Final = "urn:covey"
SCHEMA: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs"
DATASETS: Final = "ipfs"
ENDS: Final = {"ok": "COMPLETE", "cancelled": "ABORT"}
"""The type of the last event of a run by a record's status; any other one failed."""

Fields = dict[str, Any]


def write(excerpt: Excerpt, out: BinaryIO) -> None:
    """Write JSON lines, each of which an OpenLineage server takes as it is."""
    seen: set[CID] = set()  # a record may stand at two places of its feed
    for part in excerpt.parts():
        _write_all(events(part, seen), out)
    _write_all(map(redaction_event, excerpt.redacted()), out)


def _write_all(told: Iterable[Fields], out: BinaryIO) -> None:
    out.writelines(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in told)


def events(part: Part, seen: set[CID]) -> Iterator[Fields]:
    """Yield the run events of each record of ``part`` that has a time and is not among those
    ``seen`` before.
    """
    for encoded in part.records:
        record, cid = Record.decode_verified(encoded), CID.of(encoded)
        if not record.start_us or cid in seen:
            continue
        seen.add(cid)
        told = _told(cid, record.author, record.kind, _of_run(cid, record, part))
        began = _moment(record.start_us)
        yield {**told, "eventType": "START", "eventTime": began, "outputs": []}
        yield {**told, **_ended(record, _moment(record.start_us + record.duration_us))}


def _moment(at_us: int) -> str | None:
    return moment(at_us) or moment(0)


def redaction_event(erased: Erased) -> Fields:
    """Return the event that a record's content was erased."""
    redaction = erased.redaction
    facet = {
        "record": str(erased.cid),
        "status": "redacted",
        "redactedBy": peer_id_of(redaction.by),
        "reason": redaction.reason,
        "authority": redaction.authority,
        "tombstone": str(redaction.tombstone),
    }
    told = _told(erased.cid, redaction.by, "redacted", facet)
    at = _moment(redaction.at_us)
    return {**told, "eventType": "OTHER", "eventTime": at, "inputs": [], "outputs": []}


def run_id(cid: CID) -> UUID:
    """Return the name of a record's run: the same wherever it is exported from."""
    return uuid5(NAMESPACE_URL, f"urn:covey:record:{cid}")


def _told(cid: CID, author: bytes, job: str, facet: Fields) -> Fields:
    return {
        "producer": PRODUCER,
        "schemaURL": f"{SCHEMA}/RunEvent",
        "run": {"runId": str(run_id(cid)), "facets": {"covey": _facet("RunFacet", facet)}},
        "job": {"namespace": f"urn:covey:peer:{peer_id_of(author)}", "name": job},
        "inputs": [],
    }


def _of_run(cid: CID, record: Record, part: Part) -> Fields:
    return {
        "record": str(cid),
        "status": record.status,
        "startUs": record.start_us,
        "durationUs": record.duration_us,
        "author": peer_id_of(record.author),
        "informedBy": [str(run_id(parent)) for parent in record.informed_by],
        "attributes": plain(record.attributes),
        "bundle": str(part.proof.cid),
    }


def _ended(record: Record, at: str | None) -> Fields:
    blocks = ((record.environment, "environment"), (record.hardware, "hardware"))
    used = [*record.used, *((target, role) for target, role in blocks if target)]
    return {
        "eventType": ENDS.get(record.status, "FAIL"),
        "eventTime": at,
        "inputs": _datasets(used),
        "outputs": _datasets(record.generated),
    }


def _datasets(links: Iterable[Link]) -> list[Fields]:
    """Return each thing once, with all roles that it has."""
    roles: dict[CID, list[str]] = {}
    for target, role in links:
        roles.setdefault(target, []).append(role)
    return [
        {
            "namespace": DATASETS,
            "name": str(target),
            "facets": {"covey": _facet("DatasetFacet", {"roles": found})},
        }
        for target, found in roles.items()
    ]


def _facet(kind: str, fields: Fields) -> Fields:
    return {"_producer": PRODUCER, "_schemaURL": f"{SCHEMA}/{kind}", **fields}
