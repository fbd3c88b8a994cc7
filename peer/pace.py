"""How fast each author's records are taken in, so that one who floods delays nobody else. Pure.

Every author has a bucket of records that fills at ``AUTHOR_RECORDS_PER_S``. Who has emptied it
waits, as long as others bring something; alone, an author may use all that the machine has. Nothing
is thrown away: what is not taken yet stays with who has it, and every delay is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from protocols.limits import (
    AUTHOR_BURST_RECORDS,
    AUTHOR_RECORDS_PER_S,
    BUNDLE_COST_RECORDS,
    COMPANY_S,
    MAX_PACED_AUTHORS,
)


@dataclass(slots=True)
class _Bucket:
    """What an author may bring now, in records; below zero it is in debt."""

    level: float
    at: float


class Pace:
    """The buckets of all authors, whichever peers bring their bundles."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._latest: list[tuple[bytes, float]] = []
        """The two authors that brought something last, and when; the last one last."""
        self.left_out = 0
        """Bundles that relays brought too soon and that were asked for again later."""
        self.waited_s = 0.0

    def wait_s(self, author: bytes, now: float) -> float:
        """Return how long an author has to wait before its next bundle is looked into."""
        bucket = self._filled(author, now)
        return 0.0 if not self._has_company(author, now) else self._debt(bucket)

    def take(self, author: bytes, records: int, now: float) -> None:
        """An author's bundle of so many records is being looked into."""
        bucket = self._filled(author, now)
        if not self._has_company(author, now):
            bucket.level = max(bucket.level, 0.0)  # alone it runs up no debt
        bucket.level -= records + BUNDLE_COST_RECORDS
        others = [each for each in self._latest if each[0] != author]
        self._latest = [*others[-1:], (author, now)]

    def slowed(self, now: float) -> list[bytes]:
        """Return the authors that have to wait now."""
        return [author for author in list(self._buckets) if self.wait_s(author, now) > 0]

    def _debt(self, bucket: _Bucket) -> float:
        return max(0.0, -bucket.level) / AUTHOR_RECORDS_PER_S

    def _has_company(self, author: bytes, now: float) -> bool:
        return any(other != author and now - at <= COMPANY_S for other, at in self._latest)

    def _filled(self, author: bytes, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(author, _Bucket(AUTHOR_BURST_RECORDS, now))
        self._buckets.move_to_end(author)
        while len(self._buckets) > MAX_PACED_AUTHORS:
            self._buckets.popitem(last=False)
        gained = (now - bucket.at) * AUTHOR_RECORDS_PER_S
        bucket.level, bucket.at = min(bucket.level + gained, AUTHOR_BURST_RECORDS), now
        return bucket
