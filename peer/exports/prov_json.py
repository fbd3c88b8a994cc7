"""PROV-JSON: the graph in the words of W3C PROV; see ``protocols.prov``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from peer.excerpts import Excerpt, TooManyError
from protocols.excerpt import Part
from protocols.limits import MAX_DOCUMENT_RECORDS
from protocols.prov import Gone, document


def write(excerpt: Excerpt, out: BinaryIO) -> None:
    """Write one document, which is built in memory."""
    made = document(_bounded(excerpt), moment, lambda: _redacted(excerpt))
    out.write(json.dumps(made, indent=2, ensure_ascii=False).encode())
    out.write(b"\n")


def _redacted(excerpt: Excerpt) -> list[Gone]:
    return [Gone(each.cid, each.redaction, each.signers) for each in excerpt.redacted()]


def moment(at_us: int) -> str | None:
    """Return a wall-clock time as xsd:dateTime, UTC; none for what no calendar holds."""
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError, OSError):
        return None


def _bounded(excerpt: Excerpt) -> Iterator[Part]:
    for part in excerpt.parts():
        if excerpt.records > MAX_DOCUMENT_RECORDS:
            raise TooManyError(
                f"more than {MAX_DOCUMENT_RECORDS} records do not go into one PROV-JSON document",
                hint="export a lineage, or less with --since; CAR and Parquet hold more",
            )
        yield part
