"""Answers about this node's records, from its index: the same from the daemon as from a command
when the daemon is down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from node.backing import Backing
from node.benchmarks import reading as benchmarks
from node.errors import InputError, UnknownError
from node.store import Store
from peer.cids import parse_cid
from peer.excerpts import MAX_NAMING
from peer.exporting import AskedShelf, Sources, mesh_named, redaction_told
from peer.rows import BodilessRow, DroppedRow, RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.prov import plain
from protocols.tombstone import Redactions

MAX_ROWS: Final = 10_000
REPORT: Final = "error.report"

Query = Mapping[str, Any]


def list_records(store: Store, query: Query, backing: Backing) -> list[dict[str, Any]]:
    """Return the newest records, of one ``kind`` if named, at most ``limit``. Of those that were
    redacted nobody knows the kind any more.
    """
    kind, limit = query.get("kind") or None, _limit(query)
    erased = store.newest_bodiless(limit) if kind is None else []
    rows = sorted(
        [*_latest(store.newest(kind, limit)), *erased],
        key=lambda row: (row.place, row.sequence),
        reverse=True,
    )
    return [
        _left(row, backing.redactions) if isinstance(row, BodilessRow) else _row(row, backing)
        for row in rows[:limit]
    ]


def show_record(store: Store, query: Query, backing: Backing) -> dict[str, Any]:
    """Return one record whole, by its ``cid``; of one that was redacted what is left: its place,
    and why.
    """
    cid = parse_cid(query["cid"])
    row = store.record(cid)
    if row is None:
        return _show_left(store, cid, backing)
    links = [
        {"direction": direction, "role": role, "cid": str(CID(target))}
        for direction, role, target in store.links(cid)
    ]
    return {
        **_row(row, backing),
        "epoch": row.epoch,
        "sequence": row.sequence,
        "duration_us": row.duration_us,
        "environment": str(CID(row.environment)) if row.environment else None,
        "hardware": str(CID(row.hardware)) if row.hardware else None,
        "links": links,
        "attributes": plain(dagcbor.decode(row.attributes)),
    }


def _show_left(store: Store, cid: CID, backing: Backing) -> dict[str, Any]:
    """Return what is left of a record; anybody may sign a header that names somebody else's, so of
    several feeds that do, none of them ours, it is not known where it stood.
    """
    rows, redactions = store.bodiless([cid]), backing.redactions
    if not rows:
        unknown = _unknown(cid, store.dropped())
        if backing.is_damaged:
            hint = "it may have lain in bytes that the disk damaged: `covey records check`"
            raise UnknownError(unknown.message, hint=f"{hint}; or {unknown.hint}")
        raise unknown
    told = {each.feed: each for each in reversed(rows) if redactions.of(cid, each.feed) is not None}
    if not told:
        raise UnknownError(
            f"the content of record {cid} is not here",
            hint="nobody redacted it, and nobody has sent it: ask its author",
        )
    feeds = [store.own] if store.own in told else sorted(told)
    row, is_known = told[feeds[0]], len(feeds) == 1
    redaction = redactions.of(cid, row.feed)
    return {
        **_left(row, redactions),
        "peer": peer_id_of(row.feed) if is_known else None,
        "redacted": redaction and redaction_told(redaction, feeds[:MAX_NAMING]),
        "epoch": row.epoch if is_known else None,
        "sequence": row.sequence if is_known else None,
        "duration_us": None,
        "environment": None,
        "hardware": None,
        "links": [],
        "attributes": {},
    }


def list_dropped(store: Store, _query: Query, _backing: Backing) -> list[dict[str, Any]]:
    """Return what this node holds no more of each feed, and which aggregator promised to keep
    it.
    """
    return [
        {
            "peer": peer_id_of(row.feed),
            "epoch": row.epoch,
            "next_sequence": row.next_sequence,
            "aggregator": peer_id_of(row.aggregator),
        }
        for row in store.dropped()
    ]


def list_errors(store: Store, query: Query, backing: Backing) -> list[dict[str, Any]]:
    """Return the newest error reports, at most ``limit``."""
    return [_report(row, backing) for row in _latest(store.newest(REPORT, _limit(query)))]


def show_error(store: Store, query: Query, backing: Backing) -> dict[str, Any]:
    """Return one error report whole, by the ``cid`` of its record."""
    shown = show_record(store, query, backing)
    if shown["kind"] not in (REPORT, None):
        raise UnknownError(
            f"record {shown['cid']} is no error report: it is of kind {shown['kind']}",
            hint="`covey errors list` names them, and `covey records show` shows any record",
        )
    return shown


def list_benchmarks(store: Store, query: Query, backing: Backing) -> list[dict[str, Any]]:
    """Return the newest benchmarks, of one ``peer`` or ``kind`` if named, at most ``limit``."""
    found = benchmarks.newest(store, query, _limit(query))
    return [{**_row(row, backing), "record": row.kind, **told} for row, told in found]


def show_benchmark(store: Store, query: Query, backing: Backing) -> dict[str, Any]:
    """Return one benchmark whole, by the ``cid`` of its record."""
    cid = parse_cid(query["cid"])
    if store.record(cid) is None and backing.redactions.of(cid) is not None:
        raise UnknownError(
            f"record {cid} was redacted",
            code="redacted",
            hint=f"`covey records show {cid}` says by whom and why",
        )
    row, told = benchmarks.one(store, cid)
    shown = show_record(store, query, backing)
    return {
        **_row(row, backing),
        "record": row.kind,
        **told,
        "duration_us": row.duration_us,
        "links": shown["links"],
    }


READERS: Final[dict[str, Callable[[Store, Query, Backing], Any]]] = {
    "/records": list_records,
    "/records/{cid}": show_record,
    "/dropped": list_dropped,
    "/errors": list_errors,
    "/errors/{cid}": show_error,
    "/bench": list_benchmarks,
    "/bench/{cid}": show_benchmark,
}


async def verify(sources: Sources, text: str, mesh: str = "") -> dict[str, Any]:
    """Check the signed bytes of one record, by its CID, and whether its author was a member of
    ``mesh`` if that is named.
    """
    cid, root = parse_cid(text), mesh_named(mesh)

    def rows(shelf: AskedShelf) -> list[RecordRow]:
        found = shelf.records([cid])
        if not found and sources.redactions.of(cid) is None:
            raise _unknown(cid, shelf.ask(lambda store: store.dropped()))
        return found

    return await sources.verify(rows, cid, root)


def _unknown(cid: CID, dropped: list[DroppedRow]) -> UnknownError:
    message = f"this node holds no record {cid}"
    if not dropped:
        return UnknownError(message, hint="see `covey records list`")
    count = sum(row.next_sequence for row in dropped)
    holders = sorted({peer_id_of(row.aggregator) for row in dropped})
    return UnknownError(
        f"{message}; of its oldest, {count} were dropped after an aggregator promised to keep them",
        hint=f"ask aggregator {', '.join(holders)}: `covey-aggregator verify {cid}`",
    )


def _latest(newest: Iterable[RecordRow]) -> list[RecordRow]:
    """Keep of each record the place to which it came last: again, if the disk had damaged it."""
    latest: dict[bytes, RecordRow] = {}
    for row in newest:
        latest.setdefault(row.cid, row)
    return list(latest.values())


def _row(row: RecordRow, backing: Backing) -> dict[str, Any]:
    """Return what every list shows of a record; of a damaged one it is what the index remembers."""
    damage = backing.damage_of(row)
    return {
        "cid": str(CID(row.cid)),
        "kind": row.kind,
        "status": row.status if damage is None else "damaged",
        "peer": peer_id_of(row.feed),
        "at": _time(row.start_us),
        "redacted": None,
        "damaged": damage,
    }


def _left(row: BodilessRow, redactions: Redactions) -> dict[str, Any]:
    """Return what is left of a record whose body is gone."""
    redaction = redactions.of(CID(row.cid), row.feed)
    return {
        "cid": str(CID(row.cid)),
        "kind": None,
        "status": "absent" if redaction is None else "redacted",
        "peer": peer_id_of(row.feed),
        "at": None,
        "redacted": redaction and redaction_told(redaction, [row.feed]),
        "damaged": None,
    }


def _time(us: int) -> str | None:
    """ISO 8601, UTC; none for blocks, which have no time. What no calendar holds, because a clock
    is far off, stays a number.
    """
    if us == 0:
        return None
    try:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{us} µs"


def _limit(query: Query) -> int:
    try:
        limit = int(query.get("limit", 50))
    except ValueError:
        limit = 0
    if not 1 <= limit <= MAX_ROWS:
        raise InputError(f"the limit must be a number from 1 to {MAX_ROWS}")
    return limit


def _report(row: RecordRow, backing: Backing) -> dict[str, Any]:
    attributes = dagcbor.decode(row.attributes)
    return {
        "cid": str(CID(row.cid)),
        "at": _time(row.start_us),
        "type": attributes.get("exception.type"),
        "message": attributes.get("exception.message"),
        "fingerprint": str(attributes.get("fingerprint", ""))[:16],
        "count": attributes.get("count", 1),
        "job_id": attributes.get("job.id"),
        "model": attributes.get("model"),
        "damaged": backing.damage_of(row),
    }
