"""From the index's rows, as Arrow tables, to what the graph takes in."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.dag.graph import Arrivals
from aggregator.dag.labels import GENERATED, MISSING, OUTPUT, USED, Label
from aggregator.dag.names import Cids
from protocols import record
from protocols.cid import CID_BYTES


def arrivals_of(records: Any, links: Any) -> Arrivals:
    """Return the rows of ``Store.columns``."""
    at, named = _combinations(
        records["kind"], records["feed"], records["environment"], records["hardware"]
    )
    roles_at, roles = _combinations(links["direction"], links["role"])
    return Arrivals(
        records=_cids(records["cid"]),
        record_labels=at,
        labels=[(kind, feed, environment, hardware) for kind, feed, environment, hardware in named],
        sources=_cids(links["record"]),
        targets=_cids(links["target"]),
        target_labels=roles_at,
        roles=[_label(direction, role) for direction, role in roles],
        leads_down=np.array([direction == record.GENERATED for direction, _ in roles], np.bool_)[
            roles_at
        ],
    )


def give_back_memory() -> None:
    """Return to the system what Arrow and malloc keep for the next tables: 150 MB and more."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _label(direction: str, role: str) -> Label:
    """Return what a link says of its target."""
    if direction == record.INFORMED_BY:
        return Label(MISSING, "")
    if direction == record.USED:
        return Label(USED, role)
    return Label(OUTPUT if role == "output" else GENERATED, role)


def _cids(column: Any) -> Cids:
    """Return a column of CIDs, each of which has the same length, as rows of bytes."""
    fixed = _whole(column).cast(pa.binary(CID_BYTES))
    data = np.frombuffer(fixed.buffers()[1], np.uint8) if len(fixed) else np.empty(0, np.uint8)
    first = fixed.offset * CID_BYTES
    return data[first : first + len(fixed) * CID_BYTES].reshape(-1, CID_BYTES)


def _combinations(*columns: Any) -> tuple[NDArray[np.int64], Sequence[Sequence[Any]]]:
    """Return the distinct combinations of values, and for each row the place of its own."""
    encoded = [_whole(column).dictionary_encode(null_encoding="encode") for column in columns]
    code = np.zeros(len(columns[0]), np.int64)
    for each in encoded:
        code = code * max(1, len(each.dictionary)) + each.indices.to_numpy(zero_copy_only=False)
    distinct, at = np.unique(code, return_inverse=True)
    rows: list[list[Any]] = []
    for number in distinct.tolist():
        row: list[Any] = []
        for each in reversed(encoded):
            number, place = divmod(number, max(1, len(each.dictionary)))
            row.insert(0, each.dictionary[place].as_py())
        rows.append(row)
    return at, rows


def _whole(column: Any) -> Any:
    """Return a column as one array."""
    chunked: Any = column.combine_chunks()
    return chunked
