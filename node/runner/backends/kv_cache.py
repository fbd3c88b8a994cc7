"""The keys and values of every sequence under way, in one block of memory.

A sequence has one contiguous range of the block, as long as it may grow. Which ranges are free is
plain arithmetic; pages of memory are only taken when something is written to them.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import Final

ROUND_TO: Final = 64  # tokens: a hole that one sequence left fits the next one more often


@dataclass(slots=True, eq=False)
class Cache:
    """One sequence's range: ``size`` tokens from ``start``, of which ``length`` are filled."""

    start: int
    size: int
    length: int = 0


class CacheRanges:
    """Gives out ranges of ``total`` tokens, the first that fits."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken: list[tuple[int, int]] = []
        """Start and end of each range, in order."""

    def take(self, tokens: int) -> Cache | None:
        """Return a range of at least ``tokens``; None when there is none now."""
        size = -(-tokens // ROUND_TO) * ROUND_TO
        start = 0
        for taken_start, taken_end in [*self._taken, (self._total, self._total)]:
            if taken_start - start >= size:
                insort(self._taken, (start, start + size))
                return Cache(start, size)
            start = taken_end
        return None

    def give_back(self, cache: Cache) -> None:
        """Free a range."""
        self._taken.remove((cache.start, cache.start + cache.size))
