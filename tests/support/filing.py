"""What outlives a filer's process, and ways for that process to end."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
import trio.testing

from aggregator.config import Filing
from aggregator.decisions import Filed, Intent, Statement
from aggregator.filing import Filer
from aggregator.groups import Group, group
from aggregator.policy import HOUR_US, Mesh
from aggregator.trackers import Draft, Issue, Seen, Tracker, TrackerError
from aggregator.trackers.folder import FolderTracker
from peer.effects import Effects
from tests.support.reports import START_US, occurrences

AT_ONCE = Filing(min_reports=1, min_peers=1, age_s=0, per_hour=1_000, per_day=1_000)
SMALL = Mesh(is_closed=True, peers=3)
LATER_US = START_US + HOUR_US


@dataclasses.dataclass
class World:
    """What outlives a filer's process: clock, journal and tracker."""

    tracker: Tracker
    now_us: int = LATER_US
    journal: list[Statement] = dataclasses.field(default_factory=list)
    step: Callable[[], None] = lambda: None

    async def record(self, statement: Intent | Filed) -> None:
        self.step()
        await trio.lowlevel.checkpoint()
        self.journal.append(statement)
        self.step()

    def filer(self, config: Filing = AT_ONCE) -> Filer:
        effects = Effects(lambda: self.now_us, os.urandom, random.Random(7))
        return Filer(self.tracker, self.record, effects, config, self.journal)

    def groups(self, *names: str, count: int = 3) -> list[Group]:
        issues = [each for each in self.journal if isinstance(each, Filed)]
        reports = [each for name in names for each in occurrences(name, count)]
        return group(reports, filed=issues)


class Crash(BaseException):
    """The process stops here."""


class Stops:
    """Stops the process at the n-th of the steps that it counts."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Crash


class LossyFolder:
    """A folder tracker whose answers can be lost, in this thread so that a crash is one event."""

    name = "folder"
    settle_s = 0.0

    def __init__(self, home: Path, step: Callable[[], None]) -> None:
        self._tracker = FolderTracker(home)
        self._step = step
        self.lose_answer = False

    async def find(self, marker: str) -> list[Issue]:
        return self._tracker.find(marker)

    async def survey(self) -> list[Seen]:
        return self._tracker.survey()

    async def create(self, draft: Draft) -> Issue:
        issue = self._tracker.create(draft)
        self._step()
        if self.lose_answer:
            raise TrackerError("the answer was lost")
        return issue

    async def update(self, number: int, draft: Draft) -> None:
        self._tracker.update(number, draft)


_watched: dict[str, Callable[[], None]] = {}


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    """Count every call by which the interpreter touches a watched folder, before it happens."""
    if event in ("open", "os.rename", "os.mkdir", "os.scandir", "os.listdir", "os.remove"):
        for folder, step in _watched.items():
            if any(str(each).startswith(folder) for each in arguments):
                step()


@contextmanager
def watching(folder: str, step: Callable[[], None]) -> Iterator[None]:
    _watched[folder] = step
    try:
        yield
    finally:
        del _watched[folder]


sys.addaudithook(_on_event)


def issue_files(home: Path) -> list[Path]:
    return sorted((home / "issues").rglob("*.md"))
