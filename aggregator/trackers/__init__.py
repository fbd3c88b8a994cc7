"""Trackers: where issues live. A tracker needs four operations; the filer does the rest.

Adding one is a new module here and one line where the daemon chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import trio

from protocols.errors import CoveyError

ClosedAs = Literal["", "completed", "not_planned", "duplicate"]
"""Why an issue is closed; empty while it is open."""


class TrackerError(CoveyError):
    """The tracker did not say that it did what it was asked; it may have done it all the same.

    Before ``retry_after_s`` have passed, asking it for anything is useless or unwelcome.
    """

    default_code = "tracker"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


class TrackerLaterError(TrackerError):
    """The tracker wants no more requests for now; it did nothing."""

    default_code = "tracker-later"


class DraftRefusedError(TrackerError):
    """The tracker refuses this issue as it is; others may pass."""

    default_code = "draft-refused"


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
    closed_as: ClosedAs = ""
    closing: str = ""
    """The ``Seen.closing`` upon which the group's status rests, if it rests on one."""

    @property
    def is_open(self) -> bool:
        """Whether the issue shall be open."""
        return not self.closed_as


class Issue(NamedTuple):
    """An issue as the tracker names it."""

    number: int
    where: str
    """For people: a URL, or a file's name within the aggregator's home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An issue of ours as it stands in the tracker, whoever brought it there."""

    issue: Issue
    marker: str
    closed_as: ClosedAs = ""
    closing: str = ""
    """Names one act of closing by a person, different from every other; empty if none did."""
    closed_us: int = 0
    is_reopened: bool = False
    """We had closed it, and a person opened it again."""


def closing_of(tracker: str, number: int, at: str = "") -> str:
    """Return the name of an issue's closing at that time, or how each of its closings begins."""
    return f"{tracker}#{number} closed {at}"


class BlockingTracker(Protocol):
    """A tracker whose calls block; any failure is a ``TrackerError``."""

    name: str
    settle_s: float
    """How long after a failed ``create`` the issue may still appear."""

    def find(self, marker: str) -> list[Issue]:
        """Return every issue, open or closed, that carries the marker: the lowest number first,
        but those closed as duplicates last.
        """
        ...

    def survey(self) -> list[Seen]:
        """Return every issue of ours that people can close or reopen in the tracker."""
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

    async def survey(self) -> list[Seen]:
        """See ``BlockingTracker.survey``."""
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

    async def survey(self) -> list[Seen]:
        """See ``BlockingTracker.survey``."""
        return await trio.to_thread.run_sync(self._tracker.survey, limiter=self._tracker_thread)

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
