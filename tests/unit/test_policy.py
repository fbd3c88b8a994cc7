from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from aggregator.config import Filing
from aggregator.decisions import Filed
from aggregator.policy import DAY_US, HOUR_US, Context, Mesh, Verdict, policy
from tests.support.filing import LATER_US, SMALL
from tests.support.reports import START_US, a_group, a_report, occurrence, one_group

DEFAULTS = Filing(min_reports=3, min_peers=2, age_s=600, per_hour=20, per_day=100)
LARGE = Mesh(is_closed=True, peers=300)
OPEN = Mesh(is_closed=False, peers=3)


def context(mesh: Mesh = LARGE, now_us: int = LATER_US, created_us: Sequence[int] = ()) -> Context:
    return Context(mesh, now_us, START_US, tuple(created_us))


def test_three_reports_of_two_peers_after_ten_minutes_are_filed() -> None:
    assert policy(a_group(), context(), DEFAULTS) == Verdict("file")


def test_two_reports_wait_for_another() -> None:
    assert policy(a_group(count=2), context(), DEFAULTS) == Verdict("wait", "reports")


@pytest.mark.parametrize(
    ("mesh", "verdict"),
    [(SMALL, Verdict("file")), (LARGE, Verdict("wait", "peers")), (OPEN, Verdict("wait", "peers"))],
)
def test_one_peer_is_enough_only_in_a_small_closed_mesh(mesh: Mesh, verdict: Verdict) -> None:
    assert policy(a_group(peers=1), context(mesh), DEFAULTS) == verdict


def test_a_young_group_waits_until_it_is_old_enough() -> None:
    due_us = START_US + 600_000_000

    young = policy(a_group(), context(now_us=due_us - 1), DEFAULTS)

    assert young == Verdict("wait", "age", due_us)
    assert policy(a_group(), context(now_us=due_us), DEFAULTS) == Verdict("file")


def test_a_peer_whose_clock_is_years_ahead_does_not_postpone_its_issue() -> None:
    ahead = one_group([occurrence(a_report(time_us=START_US * 2 + n)) for n in range(3)])

    assert policy(ahead, context(SMALL), DEFAULTS) == Verdict("file")


def test_past_the_hourly_cap_a_group_waits_until_the_hour_is_over() -> None:
    created_us = [LATER_US - n * 1_000_000 for n in range(20)]

    verdict = policy(a_group(), context(created_us=created_us), DEFAULTS)

    assert verdict == Verdict("wait", "hourly-cap", min(created_us) + HOUR_US)


def test_past_the_daily_cap_a_group_waits_until_the_day_is_over() -> None:
    now_us = START_US + DAY_US
    created_us = [now_us - 2 * HOUR_US - n for n in range(100)]

    verdict = policy(a_group(), context(now_us=now_us, created_us=created_us), DEFAULTS)

    assert verdict == Verdict("wait", "daily-cap", min(created_us) + DAY_US)


def test_what_has_an_issue_or_a_persons_no_is_never_filed() -> None:
    known = a_group()
    issue = Filed(group=known.id, tracker="memory", number=1, where="", time_us=0)

    with_issue = dataclasses.replace(known, issues=(issue,))
    here = dataclasses.replace(context(), tracker="memory")
    assert policy(with_issue, here, DEFAULTS) == Verdict("never", "filed")
    assert policy(with_issue, context(), DEFAULTS) == Verdict("file")
    for status in ("ignored", "resolved"):
        settled = dataclasses.replace(known, status=status)
        assert policy(settled, context(), DEFAULTS) == Verdict("never", status)
