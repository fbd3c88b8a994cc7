from __future__ import annotations

import dataclasses

import pytest

from aggregator.decisions import Filed
from aggregator.draft import marker_of
from aggregator.groups import Group
from aggregator.readback import late_duplicates, rulings
from aggregator.trackers import Issue, Seen, closing_of
from tests.support.reports import START_US, a_group

CLOSING = closing_of("hub", 5, "2026-11-20T12:00:00Z")


def filed(group_id: str, number: int = 5, tracker: str = "hub") -> Filed:
    return Filed(group=group_id, tracker=tracker, number=number, where="", time_us=START_US)


def a_filed_group(**changes: object) -> Group:
    group = a_group()
    return dataclasses.replace(group, issues=(filed(group.id),), **changes)


def seen(number: int = 5, **changes: object) -> Seen:
    return Seen(issue=Issue(number, ""), marker=marker_of(a_group().id), **changes)


def actions(seen: Seen, group: Group) -> list[str]:
    return [each.action for each in rulings([seen], [group], "hub")]


@pytest.mark.parametrize("status", ["open", "regressed"])
@pytest.mark.parametrize(
    ("closed_as", "action"),
    [("completed", "resolve"), ("not_planned", "ignore"), ("duplicate", "ignore")],
)
def test_a_closing_is_a_decision(status: str, closed_as: str, action: str) -> None:
    closed = seen(closed_as=closed_as, closing=CLOSING)

    assert actions(closed, a_filed_group(status=status)) == [action]


def test_a_closing_that_the_records_know_is_not_decided_again_when_the_fault_is_back() -> None:
    closed = seen(closed_as="completed", closing=CLOSING)

    assert actions(closed, a_filed_group(status="regressed", closing=CLOSING)) == []


def test_what_we_closed_ourselves_is_nobodys_decision() -> None:
    assert actions(seen(closed_as="completed"), a_filed_group(status="regressed")) == []


@pytest.mark.parametrize("status", ["resolved", "ignored"])
def test_opening_what_was_closed_takes_the_decision_back(status: str) -> None:
    closed_here = a_filed_group(status=status, closing=CLOSING)

    assert actions(seen(), closed_here) == ["reopen"]
    assert actions(seen(is_reopened=True), a_filed_group(status=status)) == ["reopen"]


def test_an_issue_that_nobody_has_closed_yet_was_not_opened_by_a_person() -> None:
    closed_elsewhere = closing_of("hub", 55, "2026-11-20T12:00:00Z")

    assert actions(seen(), a_filed_group(status="resolved")) == []
    assert actions(seen(), a_filed_group(status="resolved", closing=closed_elsewhere)) == []


def test_issues_of_other_trackers_and_unknown_ones_say_nothing() -> None:
    closed = seen(closed_as="completed", closing=CLOSING)

    assert rulings([closed], [a_filed_group()], "another") == []
    assert (
        rulings([dataclasses.replace(closed, issue=Issue(6, ""))], [a_filed_group()], "hub") == []
    )


def test_an_open_issue_beside_the_one_that_was_filed_is_a_late_duplicate() -> None:
    known = filed(a_group().id)
    issues = [seen(5), seen(7), seen(8, closed_as="duplicate")]

    assert late_duplicates(issues, [known]) == [(seen(7), known)]
    assert late_duplicates(issues, [known, filed("0" * 12, 7)]) == []
