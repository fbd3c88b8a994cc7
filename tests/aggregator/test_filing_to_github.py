"""The filer at a GitHub on loopback that loses, delays and refuses: issues are counted there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import trio
import trio.testing
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.decisions import Filed
from aggregator.draft import marker_of
from aggregator.filing import REFUSED_WAIT_S
from aggregator.trackers import InThread, TrackerLaterError
from aggregator.trackers.github import SETTLE_S, GithubTracker
from tests.support.filing import SMALL, Crash, Stops, World
from tests.support.github.client import AT_ONCE, StoppingTracker
from tests.support.github.repository import REPO, TOKEN
from tests.support.github.server import DROPPED, SECONDARY, FakeGithub
from tests.support.reports import a_group

NAMES = ("a", "b", "c")
CREATE = ("POST", "/issues$")


@pytest.fixture
def fake() -> Iterator[FakeGithub]:
    with FakeGithub() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def world(fake: FakeGithub) -> Iterator[World]:
    with closing(GithubTracker(REPO, fake.api, TOKEN, AT_ONCE)) as tracker:
        yield World(InThread(tracker))


def issues_of(fake: FakeGithub, name: str) -> list[int]:
    return fake.with_text(marker_of(a_group(name).id))


@pytest.mark.parametrize("status", [502, DROPPED])
@pytest.mark.parametrize("when", ["before", "after", "late"])
async def test_whatever_becomes_of_a_create_there_is_one_issue(
    world: World, fake: FakeGithub, mock_clock: trio.testing.MockClock, status: int, when: str
) -> None:
    filer = world.filer()
    fake.fail(*CREATE, status=status, when=when)

    await filer.sweep(world.groups("a"), SMALL)
    mock_clock.jump(SETTLE_S / 2)
    await filer.sweep(world.groups("a"), SMALL)
    assert fake.count(*CREATE) == 1
    fake.land()
    mock_clock.jump(SETTLE_S)
    [filed] = await filer.sweep(world.groups("a"), SMALL)

    assert issues_of(fake, "a") == [filed.number]
    assert not filer.open_intents


async def test_an_issue_that_appears_after_all_hope_was_given_up_is_closed_as_a_duplicate(
    world: World, fake: FakeGithub, mock_clock: trio.testing.MockClock
) -> None:
    filer = world.filer()
    fake.fail(*CREATE, when="late")
    await filer.sweep(world.groups("a"), SMALL)
    mock_clock.jump(SETTLE_S)
    [filed] = await filer.sweep(world.groups("a"), SMALL)

    fake.land()
    rulings = await filer.read_back(world.groups("a"))

    late = next(number for number in issues_of(fake, "a") if number != filed.number)
    assert rulings == []
    assert fake.issue(late)["state_reason"] == "duplicate"
    assert f"issue {filed.number}" in fake.issue(late)["body"]
    assert fake.issue(filed.number)["state"] == "open"
    assert await filer.read_back(world.groups("a")) == []
    anew = World(world.tracker)  # the journal is lost
    [found] = await anew.filer().sweep(anew.groups("a"), SMALL)
    assert found.number == filed.number


async def test_a_limit_is_rested_out_without_another_request(
    world: World, fake: FakeGithub, mock_clock: trio.testing.MockClock
) -> None:
    filer = world.filer()
    fake.fail(*CREATE, status=403, message=SECONDARY, headers={"Retry-After": "600"})
    await filer.sweep(world.groups("a"), SMALL)
    heard = len(fake.requests)

    mock_clock.jump(599)
    await filer.sweep(world.groups("a"), SMALL)
    with pytest.raises(TrackerLaterError):
        await filer.read_back(world.groups("a"))
    assert len(fake.requests) == heard
    mock_clock.jump(1)
    await filer.sweep(world.groups("a"), SMALL)

    assert issues_of(fake, "a") == [1]


async def test_an_issue_that_is_refused_holds_up_no_other(
    world: World, fake: FakeGithub, mock_clock: trio.testing.MockClock
) -> None:
    filer = world.filer()
    fake.fail(*CREATE, status=422, message="Validation Failed")

    [filed] = await filer.sweep(world.groups("a", "b"), SMALL)
    posts = fake.count(*CREATE)
    await filer.sweep(world.groups("a", "b"), SMALL)
    assert fake.count(*CREATE) == posts
    mock_clock.jump(REFUSED_WAIT_S)
    await filer.sweep(world.groups("a", "b"), SMALL)

    assert {len(issues_of(fake, name)) for name in "ab"} == {1}
    assert fake.with_text(marker_of(filed.group)) == [1]


async def test_numbers_of_another_repository_are_not_taken_for_this_ones(
    world: World, fake: FakeGithub
) -> None:
    id_ = a_group("a").id
    elsewhere = Filed(group=id_, tracker="github:acme/old", number=7, where="", time_us=1)
    world.journal.append(elsewhere)

    [filed] = await world.filer().sweep(world.groups("a"), SMALL)

    assert filed.number == 1
    assert fake.count("PATCH", "/issues/7$") == 0


class GithubFilingMachine(RuleBasedStateMachine):
    """A filer whose process stops anywhere, at a GitHub that loses, delays, limits and repeats."""

    @initialize()
    def start(self) -> None:
        self.fake = FakeGithub().__enter__()
        self.clock = trio.testing.MockClock()
        self.stops = Stops()
        self.github = GithubTracker(REPO, self.fake.api, TOKEN, AT_ONCE)
        tracker = StoppingTracker(self.github, self.stops.step)
        self.world = World(tracker, step=self.stops.step)
        self.filer = self.world.filer()
        self.wanted: set[str] = set()

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        crash=st.one_of(st.none(), st.integers(0, 16)),
        fault=st.sampled_from(["", "before", "after", "late"]),
        status=st.sampled_from([502, DROPPED, 403]),
    )
    def sweep(self, names: set[str], crash: int | None, fault: str, status: int) -> None:
        self.wanted |= names
        self.stops.left = crash
        if fault:
            when = "before" if status == 403 else fault
            self.fake.fail(*CREATE, status=status, when=when, message=SECONDARY)
        try:
            self._sweep(names)
        except Crash:
            self.filer = self.world.filer()
        self.fake.faults.clear()
        self.stops.left = None

    @rule(seconds=st.sampled_from([1.0, SETTLE_S / 2, SETTLE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.fake.land()
        self.clock.jump(seconds)

    @rule()
    def restart(self) -> None:
        self.filer = self.world.filer()

    @invariant()
    def no_group_has_two_issues(self) -> None:
        if hasattr(self, "fake"):
            assert all(len(issues_of(self.fake, name)) <= 1 for name in NAMES)
            assert self.fake.violations == []

    def teardown(self) -> None:
        if not hasattr(self, "fake"):
            return
        self.fake.land()
        self.filer = self.world.filer()
        for _ in range(4):
            self._sweep(self.wanted)
            self.clock.jump(2 * SETTLE_S)
        recorded = {each.group: each.number for each in self.world.journal if type(each) is Filed}
        for name in self.wanted:
            assert issues_of(self.fake, name) == [recorded[a_group(name).id]]
        self.github.close()
        self.fake.__exit__()

    def _sweep(self, names: set[str]) -> None:
        async def once() -> None:
            await self.filer.sweep(self.world.groups(*sorted(names)), SMALL)

        trio.run(once, clock=self.clock)


GithubFilingMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None
)
TestExactlyOnceAtGithub = GithubFilingMachine.TestCase
