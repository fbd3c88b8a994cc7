"""A tracker in memory with the folder tracker's contract, whose answers can be lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from aggregator.trackers import Draft, Issue, IssueGoneError, Seen, TrackerError


@dataclass
class MemoryTracker:
    """Issues in a dict; the next create may be lost before or after it happened, or happen late."""

    name: str = "memory"
    settle_s: float = 0.0
    issues: dict[int, Draft] = field(default_factory=dict)
    updates: list[tuple[int, Draft]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)  # what people did, for ``survey``
    fail: str = ""  # "before", "after" or "late": what becomes of the next create
    calls: list[str] = field(default_factory=list)
    step: Callable[[], None] = lambda: None  # called where the process may stop
    _late: list[tuple[float, Draft]] = field(default_factory=list)

    async def find(self, marker: str) -> list[Issue]:
        self._enter("find")
        found = [self._issue(n) for n, draft in self.issues.items() if draft.marker == marker]
        self.step()
        return found

    async def survey(self) -> list[Seen]:
        self._enter("survey")
        return list(self.seen)

    async def create(self, draft: Draft) -> Issue:
        self._enter("create")
        fail, self.fail = self.fail, ""
        if fail == "late":
            self._late.append((trio.current_time() + self.settle_s, draft))
        elif fail != "before":
            self._add(draft)
        if fail:
            raise TrackerError("the answer was lost")
        self.step()
        return self._issue(max(self.issues))

    async def update(self, number: int, draft: Draft) -> None:
        self._enter("update")
        if number not in self.issues:
            raise IssueGoneError(f"issue {number} is gone")
        self.issues[number] = draft
        self.updates.append((number, draft))

    def with_marker(self, marker: str) -> list[int]:
        return [n for n, draft in self.issues.items() if draft.marker == marker]

    def _enter(self, call: str) -> None:
        self.step()
        self.calls.append(call)
        for due in [each for each in self._late if each[0] <= trio.current_time()]:
            self._late.remove(due)
            self._add(due[1])

    def _add(self, draft: Draft) -> None:
        self.issues[len(self.issues) + 1] = draft

    def _issue(self, number: int) -> Issue:
        return Issue(number, f"memory/{number}")
