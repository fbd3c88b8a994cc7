"""Records of our own feed that no bundle holds yet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from protocols.limits import CUT_BUNDLE_BYTES, CUT_BUNDLE_RECORDS


@dataclass(slots=True, eq=False)
class Uncut:
    """A record of ours that no bundle holds yet."""

    epoch: int
    sequence: int
    encoded: bytes
    due_at: float
    """When it wants to be cut at the latest, in trio's time."""
    offset: int | None = None
    """Where the journal has it; none until it is on the disk."""
    digest: bytes = b""
    """Of a record that was redacted, and which thus was signed before: its bytes are gone."""


class Ready:
    """What is durable and uncut, and when it is due."""

    __slots__ = ("count", "due_at", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = 0
        self.due_at = math.inf

    def add(self, uncut: Uncut) -> None:
        """Count one more record."""
        self.count += 1
        self.size_bytes += len(uncut.encoded)
        is_full = self.count >= CUT_BUNDLE_RECORDS or self.size_bytes >= CUT_BUNDLE_BYTES
        self.due_at = -math.inf if is_full else min(self.due_at, uncut.due_at)


def take(uncut: Sequence[Uncut], digests: Sequence[bytes]) -> tuple[list[Uncut], list[Uncut]]:
    """Return the records with these digests, in order, and those that are left."""
    wanted = Counter(digests)
    taken: list[Uncut] = []
    left: list[Uncut] = []
    for record in uncut:
        digest = record.digest or sha256(record.encoded).digest()
        (taken if wanted[digest] > 0 else left).append(record)
        wanted[digest] -= 1
    return taken, left


def next_cut(uncut: Sequence[Uncut]) -> list[Uncut]:
    """Return the durable records at the front that go into one bundle."""
    taken: list[Uncut] = []
    size = 0
    for record in uncut[:CUT_BUNDLE_RECORDS]:
        is_next = not taken or record.epoch == taken[0].epoch
        if record.offset is None or not is_next or size >= CUT_BUNDLE_BYTES:
            break
        taken.append(record)
        size += len(record.encoded)
    return taken


def gap_behind(signed: tuple[int, int], uncut: Sequence[Uncut]) -> Uncut | None:
    """Return the first record that does not follow the one before it or, the first of all, what is
    ``signed``.
    """
    epoch, expected = signed
    for record in uncut:
        if record.epoch != epoch:
            epoch, expected = record.epoch, 0
        if record.sequence != expected:
            return record
        expected += 1
    return None
