"""Parquet: a row a record and place, its links as lists, for DuckDB, Spark and whoever else reads
tables. CIDs are text, times are UTC, and ``record`` holds the signed bytes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO, Final

from peer.excerpts import Excerpt
from protocols.cid import CID
from protocols.excerpt import Part
from protocols.feed import SignedHeader
from protocols.keys import peer_id_of
from protocols.prov import plain
from protocols.record import Link, Record

ROW_GROUP: Final = 16_384  # records, 8 MB in memory
MAX_TIME_US: Final = 253_402_300_799_999_999  # the year 9999: readers' calendars end there


def write(excerpt: Excerpt, out: BinaryIO) -> None:
    """Write a Parquet file, in row groups of some thousand records."""
    import pyarrow
    from pyarrow import parquet

    pa: Any = pyarrow  # its stubs leave most types unknown
    schema = _schema(pa)
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _grouped(chain(_rows(excerpt.parts()), _redacted(excerpt))):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _schema(pa: Any) -> Any:
    link = pa.struct([("cid", pa.string()), ("role", pa.string())])
    redacted = pa.struct(
        [
            ("by", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("reason", pa.string()),
            ("authority", pa.string()),
            ("tombstone", pa.string()),
        ]
    )
    return pa.schema(
        [
            ("cid", pa.string()),
            ("peer", pa.string()),
            ("epoch", pa.uint64()),
            ("sequence", pa.int64()),
            ("kind", pa.string()),
            ("start", pa.timestamp("us", tz="UTC")),
            ("duration_us", pa.int64()),
            ("status", pa.string()),
            ("used", pa.list_(link)),
            ("generated", pa.list_(link)),
            ("informed_by", pa.list_(pa.string())),
            ("environment", pa.string()),
            ("hardware", pa.string()),
            ("attributes", pa.string()),
            ("bundle", pa.string()),
            ("record", pa.binary()),
            ("redacted", redacted),
        ]
    )


def _rows(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        header = part.proof.header
        places = {digest: at for at, digest in enumerate(header.digests, header.first_sequence)}
        for encoded in part.records:
            cid = CID.of(encoded)
            record = Record.decode_verified(encoded)
            yield {
                "cid": str(cid),
                "peer": peer_id_of(header.feed),
                "epoch": header.epoch,
                "sequence": places[cid.digest],
                "bundle": str(part.proof.cid),
                "record": encoded,
                **_fields(record),
            }


def _redacted(excerpt: Excerpt) -> Iterator[dict[str, Any]]:
    """Yield a row for each record of which nothing is left but its place, if that is known, and
    why.
    """
    for each in excerpt.redacted():
        redaction = each.redaction
        yield {
            "cid": str(each.cid),
            **(_place(each.cid, each.proofs[0]) if len(each.proofs) == 1 else {}),
            "redacted": {
                "by": peer_id_of(redaction.by),
                "at": _time(redaction.at_us),
                "reason": redaction.reason,
                "authority": redaction.authority,
                "tombstone": str(redaction.tombstone),
            },
        }


def _place(cid: CID, proof: SignedHeader) -> dict[str, Any]:
    header = proof.header
    return {
        "peer": peer_id_of(header.feed),
        "epoch": header.epoch,
        "sequence": header.first_sequence + header.digests.index(cid.digest),
        "bundle": str(proof.cid),
    }


def _time(at_us: int) -> int | None:
    return at_us if 0 < at_us <= MAX_TIME_US else None


def _fields(record: Record) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "start": _time(record.start_us),
        "duration_us": record.duration_us,
        "status": record.status,
        "used": _links(record.used),
        "generated": _links(record.generated),
        "informed_by": [str(parent) for parent in record.informed_by],
        "environment": str(record.environment) if record.environment else None,
        "hardware": str(record.hardware) if record.hardware else None,
        "attributes": json.dumps(plain(record.attributes), sort_keys=True),
    }


def _links(links: tuple[Link, ...]) -> list[dict[str, str]]:
    return [{"cid": str(target), "role": role} for target, role in links]


def _grouped(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) >= ROW_GROUP:
            yield group
            group = []
    if group:
        yield group
