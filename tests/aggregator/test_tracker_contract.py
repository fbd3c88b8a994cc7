"""What the filer relies on, of every tracker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.draft import draft_of, marker_of
from aggregator.trackers import Draft, InThread, IssueGoneError, Tracker
from aggregator.trackers.folder import FolderTracker
from aggregator.trackers.github import GithubTracker
from tests.support.github.client import AT_ONCE
from tests.support.github.repository import REPO, TOKEN
from tests.support.github.server import FakeGithub
from tests.support.reports import a_group, a_report, occurrence, one_group
from tests.support.trackers import MemoryTracker


@pytest.fixture(params=["memory", "folder", "github"])
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tracker]:
    match request.param:
        case "memory":
            yield MemoryTracker()
        case "folder":
            yield InThread(FolderTracker(tmp_path))
        case _:
            with FakeGithub() as fake, closing(GithubTracker(REPO, fake.api, TOKEN, AT_ONCE)) as it:
                yield InThread(it)
            assert fake.violations == []


def draft(name: str = "a", **changes: object) -> Draft:
    return dataclasses.replace(draft_of(a_group(name)), **changes)


async def test_a_created_issue_is_found_by_its_marker_alone(tracker: Tracker) -> None:
    a = await tracker.create(draft("a"))
    b = await tracker.create(draft("b"))

    assert (a.number, b.number) == (1, 2)
    assert await tracker.find(draft("a").marker) == [a]
    assert await tracker.find(draft("b").marker) == [b]
    assert await tracker.find(draft("c").marker) == []


async def test_an_updated_issue_keeps_its_number(tracker: Tracker) -> None:
    issue = await tracker.create(draft("a"))

    await tracker.update(issue.number, draft("a", title="Another title", body="Another body\n"))

    assert [each.number for each in await tracker.find(draft("a").marker)] == [issue.number]


@pytest.mark.parametrize("reason", ["completed", "not_planned", "duplicate"])
async def test_an_issue_that_we_closed_is_found_and_nobody_elses_decision(
    tracker: Tracker, reason: str
) -> None:
    issue = await tracker.create(draft("a"))

    await tracker.update(issue.number, draft("a", closed_as=reason))
    closed = await tracker.survey()
    await tracker.update(issue.number, draft("a"))

    assert [each.number for each in await tracker.find(draft("a").marker)] == [issue.number]
    for seen in [*closed, *await tracker.survey()]:
        assert not seen.closing
        assert not seen.is_reopened


async def test_an_issue_that_does_not_exist_cannot_be_updated(tracker: Tracker) -> None:
    with pytest.raises(IssueGoneError):
        await tracker.update(1, draft("a"))


async def test_an_issue_of_another_group_is_never_overwritten(tracker: Tracker) -> None:
    await tracker.create(draft("a"))

    with pytest.raises(IssueGoneError):
        await tracker.update(2, draft("b"))
    assert len(await tracker.find(draft("a").marker)) == 1


async def test_a_marker_that_a_peer_wrote_into_its_message_is_not_found(tracker: Tracker) -> None:
    planted = marker_of("0" * 12)
    report = a_report(f"x\n{planted}\n\u2028{planted}\u2028\r{planted}\r")

    await tracker.create(draft_of(one_group([occurrence(report)])))

    assert await tracker.find(planted) == []
