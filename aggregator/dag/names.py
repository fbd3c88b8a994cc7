"""Numbers for CIDs: each gets the next number when it is first seen, and keeps it.

The CIDs themselves lie in a file without a name, by number; in memory there are only 36 bits of
each digest, sorted, and the number: 6 bytes a CID. Those 36 bits merely find candidates: every one
is compared with the file before it is believed, so CIDs that somebody made to collide cost time and
confuse nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from aggregator.dag.offsets import Starts
from aggregator.dag.rows import Ids, insert_into
from protocols.cid import CID_BYTES

Cids = NDArray[np.uint8]
"""CIDs as rows of 36 bytes."""
Keys = NDArray[np.uint64]

KEY_BITS: Final = 36
FEW_BITS: Final = 4
MANY_BITS: Final = 20
"""Bits of a key by which an index is cut into buckets; the others are kept, as 32 or 16 bits."""
MANY: Final = 1 << 20  # entries from which the finer buckets (4 MB) cost less than they save
READ_ONE_BY_ONE: Final = 2_048  # CIDs; up to here reads cost less than mapping the file

_AT_DIGEST: Final = 4


@dataclass(frozen=True, slots=True)
class NameIndex:
    """Numbers by the keys of their CIDs, which ascend."""

    bits: int
    starts: Starts
    tails: NDArray[Any]
    ids: Ids

    @classmethod
    def build(cls, keys: Keys, ids: Ids) -> NameIndex:
        """Return the index of ``ids``, whose keys are ``keys``."""
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        bits = _bits_for(len(keys))
        return cls(bits, _buckets(keys, bits), _tails(keys, bits), ids[order])

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self.starts.nbytes + self.tails.nbytes + self.ids.nbytes

    def keys(self) -> Keys:
        """Return all keys, which ascend."""
        buckets = np.arange(len(self.starts) - 1, dtype=np.uint64)
        keys = np.repeat(buckets << np.uint64(KEY_BITS - self.bits), np.diff(self.starts))
        keys |= self.tails
        return keys

    def lower_bounds(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each key the place of the first entry not below it, and its bucket's end."""
        buckets = (keys >> np.uint64(KEY_BITS - self.bits)).astype(np.int64)
        tails = _tails(keys, self.bits)
        low, end = self.starts[buckets].astype(np.int64), self.starts[buckets + 1].astype(np.int64)
        high = end.copy()
        while (is_open := low < high).any():
            middle = (low + high) >> 1
            is_below = is_open & (self.tails[np.minimum(middle, len(self.tails) - 1)] < tails)
            low = np.where(is_below, middle + 1, low)
            high = np.where(is_open & ~is_below, middle, high)
        return low, end

    def candidates(self, key: int) -> list[int]:
        """Return the numbers of all CIDs that have this key."""
        rest = KEY_BITS - self.bits
        bucket = key >> rest
        first, last = int(self.starts[bucket]), int(self.starts[bucket + 1])
        alike = np.flatnonzero(self.tails[first:last] == key & ((1 << rest) - 1))
        return self.ids[first + alike].tolist()


def merged_index(one: NameIndex, other: NameIndex) -> NameIndex:
    """Return the index of what both hold; it costs least when ``one`` is the larger."""
    keys, others = one.keys(), other.keys()
    bits = _bits_for(len(keys) + len(others))
    at = np.searchsorted(keys, others, side="right")
    starts = _buckets(keys, bits) + _buckets(others, bits)
    tails = np.empty(len(keys) + len(others), _tail_type(bits))
    insert_into(tails, _tails(keys, bits), at, _tails(others, bits))
    del keys
    ids = np.empty(len(tails), np.int32)
    insert_into(ids, one.ids, at, other.ids)
    return NameIndex(bits, starts, tails, ids)


class Names:
    """The file of CIDs by number. ``read`` may be called from any thread, the others from one."""

    def __init__(self, folder: Path) -> None:
        """Make the file in ``folder``; the system forgets it once nobody holds this any more."""
        self._file, name = tempfile.mkstemp(prefix="lineage-", dir=folder)
        os.unlink(name)
        weakref.finalize(self, os.close, self._file)
        self.count = 0

    def read(self, ids: Ids) -> Cids:
        """Return the CIDs of these numbers."""
        if len(ids) <= READ_ONE_BY_ONE:
            return as_rows(b"".join(map(self._read_one, ids.tolist())))
        with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as mapped:
            every = np.frombuffer(cast("Any", mapped), np.uint8).reshape(-1, CID_BYTES)
            chosen = every[ids]
            del every  # or the mapping cannot be closed
        return chosen

    def find(self, cid: bytes, indexes: list[NameIndex]) -> int | None:
        """Return a CID's number."""
        key = int(keys_of(as_rows(cid))[0])
        for index in indexes:
            for number in index.candidates(key):
                if self._read_one(number) == cid:
                    return number
        return None

    def number(self, cids: Cids, indexes: list[NameIndex]) -> tuple[Ids, NameIndex]:
        """Return the numbers of ``cids``, and the index of those that are new; they are numbered in
        the order in which they stand here.
        """
        first, group = _distinct(cids)
        distinct = cids[first]
        keys = keys_of(distinct)
        numbers = np.full(len(first), -1, np.int32)
        for index in indexes:
            self._look_up(index, keys, distinct, numbers)
        is_new = numbers < 0
        fresh = np.flatnonzero(is_new)
        numbers[fresh] = np.arange(self.count, self.count + len(fresh), dtype=np.int32)
        self._append(distinct[fresh])
        return numbers[group], NameIndex.build(keys[fresh], numbers[fresh])

    def _look_up(self, index: NameIndex, keys: Keys, cids: Cids, numbers: Ids) -> None:
        """Set the numbers of those ``cids`` that ``index`` holds."""
        if not len(index.ids):
            return
        wanted = np.flatnonzero(numbers < 0)
        at, end = index.lower_bounds(keys[wanted])
        tails = _tails(keys[wanted], index.bits)
        while True:
            may_be = at < end
            may_be &= index.tails[np.minimum(at, len(index.tails) - 1)] == tails
            wanted, at, end, tails = (each[may_be] for each in (wanted, at, end, tails))
            if not len(wanted):
                return
            candidates = index.ids[at]
            is_it = (self.read(candidates) == cids[wanted]).all(axis=1)
            numbers[wanted[is_it]] = candidates[is_it]
            wanted, at, end, tails = (each[~is_it] for each in (wanted, at + 1, end, tails))

    def _read_one(self, number: int) -> bytes:
        return os.pread(self._file, CID_BYTES, number * CID_BYTES)

    def _append(self, cids: Cids) -> None:
        rest = np.ascontiguousarray(cids).reshape(-1).data
        at = self.count * CID_BYTES
        while len(rest):
            written = os.pwrite(self._file, rest, at)
            rest, at = rest[written:], at + written
        self.count += len(cids)


def as_rows(joined: bytes) -> Cids:
    """Return joined CIDs as rows."""
    return np.frombuffer(joined, np.uint8).reshape(-1, CID_BYTES)


def keys_of(cids: Cids) -> Keys:
    """Return the key of each CID: the first bits of its digest."""
    return _heads(cids) >> np.uint64(64 - KEY_BITS)


def _heads(cids: Cids) -> Keys:
    head = np.ascontiguousarray(cids[:, _AT_DIGEST : _AT_DIGEST + 8])
    return head.view(">u8").reshape(-1).astype(np.uint64)


def _distinct(cids: Cids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of each distinct CID's first occurrence, ascending, and for each CID the
    place of its own among those.
    """
    heads = _heads(cids)
    order = np.argsort(heads, kind="stable")
    is_other = _differs(cids, order)
    is_same_head = heads[order][1:] == heads[order][:-1]
    if (is_other & is_same_head).any():  # alike in 64 bits: sort by all of them
        padded = np.zeros((len(cids), 40), np.uint8)
        padded[:, :CID_BYTES] = cids
        order = np.lexsort(padded.view(np.uint64).T)
        is_other = _differs(cids, order)
    starts = np.flatnonzero(np.concatenate([[True], is_other])[: len(order)])
    first = np.minimum.reduceat(order, starts) if len(starts) else starts
    by_first = np.argsort(first, kind="stable")
    rank = np.empty_like(by_first)
    rank[by_first] = np.arange(len(by_first))
    group = np.empty(len(cids), np.int64)
    group[order] = np.repeat(rank, np.diff(np.append(starts, len(order))))
    return first[by_first], group


def _differs(cids: Cids, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell of each CID but the first, in this order, whether it is another than the one before."""
    words = np.ascontiguousarray(cids).view(np.uint32)
    is_other = np.zeros(max(0, len(order) - 1), np.bool_)
    for column in range(words.shape[1]):
        ordered = words[:, column][order]
        is_other |= ordered[1:] != ordered[:-1]
    return is_other


def _bits_for(count: int) -> int:
    return MANY_BITS if count >= MANY else FEW_BITS


def _tail_type(bits: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if bits == MANY_BITS else np.uint32


def _tails(keys: Keys, bits: int) -> NDArray[Any]:
    return (keys & np.uint64((1 << (KEY_BITS - bits)) - 1)).astype(_tail_type(bits))


def _buckets(keys: Keys, bits: int) -> Starts:
    """Return where each bucket of ascending ``keys`` starts, and the end."""
    bounds = np.arange((1 << bits) + 1, dtype=np.uint64) << np.uint64(KEY_BITS - bits)
    return np.searchsorted(keys, bounds).astype(np.uint32)
