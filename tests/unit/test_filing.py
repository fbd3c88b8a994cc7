from __future__ import annotations

import dataclasses

import msgspec
import pytest
import trio
import trio.testing

from aggregator.config import Filing
from aggregator.decisions import Filed, Intent
from aggregator.draft import marker_of
from aggregator.filing import UPDATE_INTERVAL_S
from aggregator.policy import HOUR_US
from aggregator.trackers import Issue, Seen
from tests.support.filing import SMALL, World
from tests.support.trackers import MemoryTracker


async def test_a_group_is_filed_once_and_its_number_is_recorded() -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()

    [filed] = await filer.sweep(world.groups("a"), SMALL)
    again = await filer.sweep(world.groups("a"), SMALL)

    assert filed.number == 1
    assert again == []
    assert len(tracker.issues) == 1
    assert [type(each) for each in world.journal] == [Intent, Filed]
    assert tracker.calls == ["find", "create"]


@pytest.mark.parametrize("fail", ["before", "after"])
async def test_a_lost_answer_is_settled_by_looking_before_another_create(fail: str) -> None:
    tracker = MemoryTracker(fail=fail)
    world = World(tracker)
    filer = world.filer()

    assert await filer.sweep(world.groups("a"), SMALL) == []
    assert filer.open_intents
    [filed] = await filer.sweep(world.groups("a"), SMALL)

    assert filed.number == 1
    assert len(tracker.issues) == 1
    assert not filer.open_intents


async def test_a_create_that_takes_effect_late_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracker = MemoryTracker(settle_s=20.0, fail="late")
    world = World(tracker)
    filer = world.filer()

    for _ in range(30):
        await filer.sweep(world.groups("a"), SMALL)
        await trio.sleep(1)

    assert len(tracker.issues) == 1
    assert tracker.calls.count("create") == 1


async def test_a_new_process_waits_for_a_create_of_the_one_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracker = MemoryTracker(settle_s=20.0, fail="late")
    world = World(tracker)
    await world.filer().sweep(world.groups("a"), SMALL)

    successor = world.filer()
    for _ in range(30):
        await successor.sweep(world.groups("a"), SMALL)
        await trio.sleep(1)

    assert len(tracker.issues) == 1


async def test_an_open_intent_is_settled_even_if_its_group_is_gone() -> None:
    tracker = MemoryTracker(fail="after")
    world = World(tracker)
    await world.filer().sweep(world.groups("a"), SMALL)

    [filed] = await world.filer().sweep([], SMALL)

    assert filed.number == 1


async def test_an_issue_that_no_record_knows_of_is_taken_and_not_created_again() -> None:
    tracker = MemoryTracker()
    await World(tracker).filer().sweep(World(tracker).groups("a"), SMALL)
    without_its_journal = World(tracker)

    [filed] = await without_its_journal.filer().sweep(without_its_journal.groups("a"), SMALL)

    assert filed.number == 1
    assert len(tracker.issues) == 1


async def test_sweeps_at_the_same_time_file_once() -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(filer.sweep, world.groups("a", "b"), SMALL)

    assert len(tracker.issues) == 2


async def test_past_the_cap_one_umbrella_issue_stands_for_the_rest() -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    config = Filing(min_reports=1, min_peers=1, age_s=0, per_hour=2, per_day=100)
    filer = world.filer(config)

    for _ in range(3):
        await filer.sweep(world.groups("a", "b", "c", "d"), SMALL)
    titles = [each.title for each in tracker.issues.values()]

    assert titles == ["ValueError: it broke"] * 2 + ["2 more faults without an issue of their own"]
    world.now_us += HOUR_US
    await world.filer(config).sweep(world.groups("a", "b", "c", "d"), SMALL)
    assert len(tracker.issues) == 5


async def test_counters_are_edited_at_most_hourly(autojump_clock: trio.testing.MockClock) -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()
    await filer.sweep(world.groups("a"), SMALL)

    for minute in range(119):
        await trio.sleep(60)
        await filer.sweep(world.groups("a", count=4 + minute), SMALL)

    assert len(tracker.updates) == 1
    assert "Seen **63 times**" in tracker.updates[0][1].body


async def test_an_issue_closes_and_opens_at_once_when_a_person_decides() -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()
    await filer.sweep(world.groups("a"), SMALL)

    for status in ("resolved", "regressed"):
        groups = [dataclasses.replace(each, status=status) for each in world.groups("a")]
        await filer.sweep(groups, SMALL)

    assert [(draft.is_open, draft.labels) for _, draft in tracker.updates] == [
        (False, ("covey",)),
        (True, ("covey", "regression")),
    ]


async def test_the_issue_of_a_merged_group_points_to_the_one_that_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()
    await filer.sweep(world.groups("a", "b"), SMALL)
    a, b = (each for each in world.journal if isinstance(each, Filed))
    merged = dataclasses.replace(world.groups("a")[0], issues=(a, b))

    await filer.sweep([merged], SMALL)

    assert [(number, draft.is_open) for number, draft in tracker.updates] == [(b.number, False)]
    assert f"issue {a.number}" in tracker.issues[b.number].body
    assert tracker.issues[b.number].marker == marker_of(b.group)


async def test_an_issue_that_a_person_deleted_stays_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    filer = world.filer()
    await filer.sweep(world.groups("a"), SMALL)
    tracker.issues.clear()

    await trio.sleep(UPDATE_INTERVAL_S)
    await filer.sweep(world.groups("a", count=9), SMALL)

    assert tracker.issues == {}


async def test_two_filers_that_meet_leave_the_lower_number_open() -> None:
    tracker = MemoryTracker()
    one = World(tracker)
    [first] = await one.filer().sweep(one.groups("a"), SMALL)
    second = msgspec.structs.replace(first, number=2)
    tracker.issues[2] = tracker.issues[1]
    marker = marker_of(first.group)
    tracker.seen = [Seen(issue=Issue(number, ""), marker=marker) for number in (1, 2)]
    other = World(tracker, journal=[second])

    for world in (one, other):
        await world.filer().read_back(world.groups("a"))

    assert [number for number, _ in tracker.updates] == [2]
    assert [each.number for each in other.journal if isinstance(each, Filed)] == [2, 1]


async def test_a_new_process_opens_an_issue_at_once() -> None:
    tracker = MemoryTracker()
    world = World(tracker)
    await world.filer().sweep(world.groups("a"), SMALL)
    regressed = [dataclasses.replace(each, status="regressed") for each in world.groups("a")]

    await world.filer().sweep(regressed, SMALL)

    assert [draft.is_open for _, draft in tracker.updates] == [True]
