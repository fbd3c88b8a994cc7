from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import trio
import trio.testing
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.decisions import Filed
from aggregator.draft import marker_of
from aggregator.trackers.folder import FolderTracker
from tests.support.filing import SMALL, Crash, LossyFolder, Stops, World, issue_files, watching
from tests.support.reports import a_group
from tests.support.trackers import MemoryTracker

NAMES = ("a", "b", "c")
some_groups = st.sets(st.sampled_from(NAMES), min_size=1)
crash_at = st.one_of(st.none(), st.integers(0, 14))


class FilingMachine(RuleBasedStateMachine):
    """A filer whose process stops anywhere and whose tracker loses or delays answers."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = Stops()
        self.clock = trio.testing.MockClock()
        self.tracker = MemoryTracker(settle_s=20.0, step=self.stops.step)
        self.world = World(self.tracker, step=self.stops.step)
        self.filer = self.world.filer()
        self.wanted: set[str] = set()

    @rule(names=some_groups, crash=crash_at, fail=st.sampled_from(["", "before", "after", "late"]))
    def sweep(self, names: set[str], crash: int | None, fail: str) -> None:
        self.wanted |= names
        self.tracker.fail, self.stops.left = fail, crash
        try:
            self._sweep(names)
        except Crash:
            self.filer = self.world.filer()
        self.tracker.fail, self.stops.left = "", None

    @rule()
    def restart(self) -> None:
        self.filer = self.world.filer()

    @rule(seconds=st.sampled_from([1.0, 19.0, 21.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @invariant()
    def no_group_has_two_issues(self) -> None:
        for name in NAMES:
            assert len(self.tracker.with_marker(marker_of(a_group(name).id))) <= 1

    def teardown(self) -> None:
        self.filer = self.world.filer()
        for _ in range(3):
            self._sweep(self.wanted)
            self.clock.jump(21.0)
        recorded = {
            each.group: each.number for each in self.world.journal if isinstance(each, Filed)
        }
        for name in self.wanted:
            id_ = a_group(name).id
            assert self.tracker.with_marker(marker_of(id_)) == [recorded[id_]]
        assert not self.filer.open_intents

    def _sweep(self, names: set[str]) -> None:
        async def once() -> None:
            await self.filer.sweep(self.world.groups(*sorted(names)), SMALL)

        trio.run(once, clock=self.clock)


class FolderFilingMachine(RuleBasedStateMachine):
    """The same over real files: the process may stop before any call that touches the folder."""

    @initialize()
    def start(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.stops = Stops()
        self.tracker = LossyFolder(Path(self.home.name), self.stops.step)
        self.world = World(self.tracker, step=self.stops.step)
        self.filer = self.world.filer()
        self.wanted: set[str] = set()
        self.renamed = itertools.count()

    @rule(names=some_groups, crash=st.one_of(st.none(), st.integers(0, 40)), lose=st.booleans())
    def sweep(self, names: set[str], crash: int | None, lose: bool) -> None:
        self.wanted |= names
        self.tracker.lose_answer, self.stops.left = lose, crash
        try:
            with watching(self.home.name, self.stops.step):
                self._sweep(names)
        except Crash:
            self.filer = self.world.filer()
        self.tracker.lose_answer, self.stops.left = False, None

    @rule(keeps_number=st.booleans())
    def a_person_renames_a_file(self, keeps_number: bool) -> None:
        for path in issue_files(Path(self.home.name))[:1]:
            number = f"{path.name[:4]}-" if keeps_number else ""
            path.rename(path.with_name(f"{number}mine{next(self.renamed)}.md"))

    @invariant()
    def no_group_has_two_files(self) -> None:
        for name in NAMES:
            assert len(FolderTracker(Path(self.home.name)).find(marker_of(a_group(name).id))) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "home"):
            return
        self.filer = self.world.filer()
        for _ in range(2):
            self._sweep(self.wanted)
        recorded = {
            each.group: each.number for each in self.world.journal if isinstance(each, Filed)
        }
        for name in self.wanted:
            id_ = a_group(name).id
            [issue] = FolderTracker(Path(self.home.name)).find(marker_of(id_))
            assert issue.number == recorded[id_]
        assert len(set(recorded.values())) == len(recorded)
        self.home.cleanup()

    def _sweep(self, names: set[str]) -> None:
        async def once() -> None:
            await self.filer.sweep(self.world.groups(*sorted(names)), SMALL)

        trio.run(once)


FilingMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
FolderFilingMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None
)
TestExactlyOnce = FilingMachine.TestCase
TestExactlyOnceInAFolder = FolderFilingMachine.TestCase
