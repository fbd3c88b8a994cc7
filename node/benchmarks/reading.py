"""The benchmarks that this node knows, from its index: those that it ran for others, and those that
others ran for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.benchmarks.statement import MEASURED, RESULT, Statement
from node.errors import InputError, UnknownError
from node.store import Store
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.cid import CID

Query = Mapping[str, Any]

MAX_SCANNED: Final = 10_000  # to find those that are wanted; half a second of decoding

FILLED_FROM: Final = {
    "cpu_model": "cpu_model",
    "cores": "usable_cores",
    "memory_bytes": "memory_total_bytes",
}
"""What is told of a machine whose hardware is on record here, and how that record calls it."""


def newest(store: Store, query: Query, limit: int) -> list[tuple[RecordRow, dict[str, Any]]]:
    """Return the newest benchmarks, of one ``peer`` or ``kind`` if named: each with its record. One
    that this node did for itself is told once.
    """
    scanned = MAX_SCANNED if query.get("peer") or query.get("kind") else limit
    found = [row for kind in (RESULT, MEASURED) for row in store.newest(kind, scanned)]
    told: dict[bytes, tuple[RecordRow, dict[str, Any]]] = {}
    for row in found:
        stated = Statement.of(dagcbor.decode(row.attributes))
        is_wanted = query.get("peer") in (None, "", stated.worker)
        if is_wanted and query.get("kind") in (None, "", stated.kind):
            told.setdefault(stated.job_id, (row, stated.told()))
    return sorted(told.values(), key=lambda each: -each[0].start_us)[:limit]


def one(store: Store, cid: CID) -> tuple[RecordRow, dict[str, Any]]:
    """Return one benchmark by the CID of its record; raises ``UnknownError`` and ``InputError``."""
    row = store.record(cid)
    if row is None:
        raise UnknownError(f"this node holds no record {cid}", hint="see `covey bench list`")
    if row.kind not in (RESULT, MEASURED):
        raise InputError(
            f"record {cid} is no benchmark: it is {row.kind}", hint="see `covey bench list`"
        )
    told = Statement.of(dagcbor.decode(row.attributes)).told()
    if row.kind == RESULT:  # what stands in the record itself is the submitter's own
        return row, {**told, "environment": None}
    own = {"machine": _machine(store, row), "hardware": _text(row.hardware)}
    return row, {**told, **own, "environment": _text(row.environment)}


def _text(cid: bytes | None) -> str | None:
    return str(CID(cid)) if cid else None


def _machine(store: Store, row: RecordRow) -> dict[str, Any]:
    """Return what this node's own hardware record says; a submitter states it itself."""
    found = store.record(row.hardware) if row.hardware else None
    known: dict[str, Any] = dagcbor.decode(found.attributes) if found else {}
    return {name: known[of] for name, of in FILLED_FROM.items() if of in known}
