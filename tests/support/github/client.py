"""Our side of the fake: a tracker that does not wait, and one whose process may stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aggregator.trackers import Draft, Issue, Seen
from aggregator.trackers.github import GithubTracker, Pace

T = TypeVar("T")

AT_ONCE = Pace(0, 0, 0)


class StoppingTracker:
    """A tracker in this thread, so that a stop of the process is one event."""

    def __init__(self, tracker: GithubTracker, step: Callable[[], None]) -> None:
        self.name, self.settle_s = tracker.name, tracker.settle_s
        self._tracker = tracker
        self._step = step

    async def find(self, marker: str) -> list[Issue]:
        return self._around(lambda: self._tracker.find(marker))

    async def survey(self) -> list[Seen]:
        return self._around(self._tracker.survey)

    async def create(self, draft: Draft) -> Issue:
        return self._around(lambda: self._tracker.create(draft))

    async def update(self, number: int, draft: Draft) -> None:
        self._around(lambda: self._tracker.update(number, draft))

    def _around(self, call: Callable[[], T]) -> T:
        self._step()
        answer = call()
        self._step()
        return answer
