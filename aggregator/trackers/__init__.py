"""Trackers: where issues live. A tracker needs three operations; the filer does the rest.

Adding one is a new module here and one line where the daemon chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import trio

from protocols.errors import CoveyError


class TrackerError(CoveyError):
    """The tracker did not say that it did what it was asked; it may have done it all the same."""

    default_code = "tracker"


class IssueGoneError(TrackerError):
    """The issue was deleted by a person, which the filer respects."""

    default_code = "issue-gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What an issue shall say. Title and body are safe to show wherever Markdown is rendered."""

    marker: str
    """One line, found again for ever: it names the group."""
    title: str
    body: str
    labels: tuple[str, ...] = ()
    is_open: bool = True


class Issue(NamedTuple):
    """An issue as the tracker names it."""

    number: int
    where: str
    """For people: a URL, or a file's name within the aggregator's home."""


class BlockingTracker(Protocol):
    """A tracker whose calls block; any failure is a ``TrackerError``."""

    name: str
    settle_s: float
    """How long after a failed ``create`` the issue may still appear."""

    def find(self, marker: str) -> list[Issue]:
        """Return every issue, open or closed, that carries the marker, the lowest number first."""
        ...

    def create(self, draft: Draft) -> Issue:
        """Create an issue. It must never repeat the attempt by itself."""
        ...

    def update(self, number: int, draft: Draft) -> None:
        """Make the issue say what the draft says, and keep what people added."""
        ...


class Tracker(Protocol):
    """The same operations for the event loop."""

    name: str
    settle_s: float

    async def find(self, marker: str) -> list[Issue]:
        """See ``BlockingTracker.find``."""
        ...

    async def create(self, draft: Draft) -> Issue:
        """See ``BlockingTracker.create``."""
        ...

    async def update(self, number: int, draft: Draft) -> None:
        """See ``BlockingTracker.update``."""
        ...


class InThread:
    """A blocking tracker in one worker thread: its calls never overlap and never stall the loop.

    A call that has begun is waited for even when cancelled, so that none is left behind writing.
    """

    def __init__(self, tracker: BlockingTracker) -> None:
        self.name = tracker.name
        self.settle_s = tracker.settle_s
        self._tracker = tracker
        self._tracker_thread = trio.CapacityLimiter(1)

    async def find(self, marker: str) -> list[Issue]:
        """See ``BlockingTracker.find``."""
        return await trio.to_thread.run_sync(
            self._tracker.find, marker, limiter=self._tracker_thread
        )

    async def create(self, draft: Draft) -> Issue:
        """See ``BlockingTracker.create``."""
        return await trio.to_thread.run_sync(
            self._tracker.create, draft, limiter=self._tracker_thread
        )

    async def update(self, number: int, draft: Draft) -> None:
        """See ``BlockingTracker.update``."""
        await trio.to_thread.run_sync(
            self._tracker.update, number, draft, limiter=self._tracker_thread
        )
