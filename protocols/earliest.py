"""Which of an author's tombstones count, where they name more records than anybody remembers of one
author. Pure.

They cannot count by arrival: peers that hold the same records would give different answers. So the
earliest count, by the time that they themselves say and then by their names. The author's clock may
lie; it then only chooses among its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from protocols.cid import CID


class Dated(NamedTuple):
    """A tombstone in the order in which an author's count, and the records that it names."""

    at_us: int
    cid: CID
    records: tuple[CID, ...]
    authority: str
    """By which it speaks: the bound is one for all."""


class Earliest:
    """An author's earliest tombstones, which together name ``bound`` records at most: a function of
    the set of those that were added. Once one of them does not fit, none behind it counts.
    """

    def __init__(self, bound: int) -> None:
        """The ``bound`` is a number of records."""
        self._bound = bound
        self._kept: list[Dated] = []
        self._named = 0
        self._cut: Dated | None = None

    def __contains__(self, dated: Dated) -> bool:
        at = bisect_left(self._kept, dated)
        return at < len(self._kept) and self._kept[at] == dated

    @property
    def kept(self) -> list[Dated]:
        """Those that count, in order."""
        return list(self._kept)

    @property
    def named(self) -> int:
        """How many records those that count name, each as often as it is named."""
        return self._named

    @property
    def is_cut(self) -> bool:
        """Whether some do not count."""
        return self._cut is not None

    def add(self, dated: Dated) -> list[Dated]:
        """Take in a tombstone that is not in here; return those that do not count, it or others
        that did.
        """
        if self._cut is not None and dated >= self._cut:
            return [dated]
        insort(self._kept, dated)
        self._named += len(dated.records)
        gone: list[Dated] = []
        while self._named > self._bound:
            self._cut = self._kept.pop()
            self._named -= len(self._cut.records)
            gone.append(self._cut)
        return gone

    def without(self, authority: str) -> Earliest:
        """Return those of these that speak by another authority; where ``is_cut``, more may count
        by now, and all are to be added again.
        """
        left = Earliest(self._bound)
        for dated in self._kept:
            if dated.authority != authority:
                left.add(dated)
        return left
