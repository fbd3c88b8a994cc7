"""What people did to issues in their tracker, read as decisions about groups.

Pure. Only what the records do not know yet gives a decision: a closing is known by its name, and an
issue that stands open although its group is closed was opened by a person, unless nobody had closed
it so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from aggregator.decisions import Filed
from aggregator.draft import marker_of
from aggregator.groups import Group
from aggregator.trackers import ClosedAs, Seen, closing_of

Action = Literal["resolve", "ignore", "reopen"]
_ACTIONS: Final[dict[ClosedAs, Action]] = {
    "completed": "resolve",
    "not_planned": "ignore",
    "duplicate": "ignore",  # of something that is not ours: nothing is left to be filed
}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person decided about a group by closing or opening its issue."""

    action: Action
    group: Group
    issue: int
    closing: str
    closed_us: int
    """When, as the tracker says; zero if it says nothing."""


def rulings(seen: Iterable[Seen], groups: Iterable[Group], tracker: str) -> list[Ruling]:
    """Return what people decided in that tracker and no record says yet."""
    group_of = {filed.number: group for group in groups if (filed := group.filed_in(tracker))}
    return [
        Ruling(action, group, each.issue.number, each.closing, each.closed_us)
        for each in seen
        if (group := group_of.get(each.issue.number))
        and (action := _action(each, group, closing_of(tracker, each.issue.number)))
    ]


def _action(seen: Seen, group: Group, closings: str) -> Action | None:
    """``closings`` begins the name of every closing of this issue."""
    is_group_open = group.status in ("open", "regressed")
    if is_group_open and seen.closing and seen.closing != group.closing:
        return _ACTIONS[seen.closed_as]
    was_closed = seen.is_reopened or group.closing.startswith(closings)
    if not is_group_open and not seen.closed_as and was_closed:
        return "reopen"
    return None


def late_duplicates(seen: Iterable[Seen], known: Iterable[Filed]) -> list[tuple[Seen, Filed]]:
    """Return each open issue that nobody filed, with the one of the same marker that was filed: a
    create that was given up for lost took effect at last, or another filer made it.
    """
    filed = {marker_of(each.group): each for each in known}
    numbers = {each.number for each in filed.values()}
    return [
        (each, filed[each.marker])
        for each in seen
        if each.marker in filed and each.issue.number not in numbers and not each.closed_as
    ]
