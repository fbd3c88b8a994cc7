"""What is due when: names, each at one moment at most, the earliest first."""

from __future__ import annotations

import heapq
import math


class Schedule:
    """Moments are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._due_at: dict[bytes, float] = {}
        self._heap: list[tuple[float, bytes]] = []
        """With entries that stand no more: those that ``_due_at`` does not have so."""

    @property
    def next_at(self) -> float:
        """When something is due, infinity if nothing is."""
        self._clear()
        return self._heap[0][0] if self._heap else math.inf

    def put(self, name: bytes, at: float) -> None:
        """Have ``name`` due at that moment, and not at another one."""
        self._due_at[name] = at
        heapq.heappush(self._heap, (at, name))

    def hasten(self, at: float, count: int) -> list[bytes]:
        """Have the first ``count`` that are due later than ``at`` due then; return them."""
        later = ((due, name) for name, due in self._due_at.items() if due > at)
        hastened = [name for _, name in heapq.nsmallest(count, later)]
        for name in hastened:
            self.put(name, at)
        return hastened

    def pop(self, now: float) -> bytes | None:
        """Take out and return the first that is due, None if none is."""
        if self.next_at > now:
            return None
        _, name = heapq.heappop(self._heap)
        del self._due_at[name]
        return name

    def _clear(self) -> None:
        while self._heap and self._due_at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
