"""The GitHub tracker against a GitHub on loopback that holds us to its own description."""

from __future__ import annotations

import dataclasses
import email.utils
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from aggregator.draft import draft_of, fence, marker_of
from aggregator.trackers import (
    Draft,
    DraftRefusedError,
    Issue,
    IssueGoneError,
    TrackerError,
    TrackerLaterError,
)
from aggregator.trackers.github import (
    LIMITED_WAIT_S,
    LIMITED_WAIT_S_MAX,
    PERSON_WAIT_S,
    GithubTracker,
    name_of,
)
from aggregator.trackers.github_body import FOOTER, MAX_BODY_CHARS
from tests.support.github.client import AT_ONCE
from tests.support.github.repository import REPO, STRANGER, TOKEN, US
from tests.support.github.server import CONTENT, DROPPED, PRIMARY, SECONDARY, FakeGithub
from tests.support.reports import a_group

ISSUES = "/issues$"


@pytest.fixture
def fake() -> Iterator[FakeGithub]:
    with FakeGithub() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def tracker(fake: FakeGithub) -> Iterator[GithubTracker]:
    with closing(GithubTracker(REPO, fake.api, TOKEN, AT_ONCE)) as tracker:
        yield tracker


def draft(name: str = "a", **changes: Any) -> Draft:
    return dataclasses.replace(draft_of(a_group(name)), **changes)


def label_names(fake: FakeGithub, number: int) -> list[str]:
    return [label["name"] for label in fake.issue(number)["labels"]]


# Answers that do not come


@pytest.mark.parametrize("status", [502, DROPPED])
@pytest.mark.parametrize(("when", "issues"), [("before", 0), ("after", 1)])
def test_a_create_whose_answer_is_lost_is_not_repeated_and_the_list_tells_what_became_of_it(
    fake: FakeGithub, tracker: GithubTracker, status: int, when: str, issues: int
) -> None:
    fake.fail("POST", ISSUES, status=status, when=when)

    with pytest.raises(TrackerError):
        tracker.create(draft())

    assert fake.count("POST", ISSUES) == 1
    assert len(tracker.find(draft().marker)) == len(fake.repository.issues) == issues


@pytest.mark.parametrize("status", [502, DROPPED])
def test_an_edit_whose_answer_is_lost_is_not_repeated(
    fake: FakeGithub, tracker: GithubTracker, status: int
) -> None:
    tracker.create(draft())
    fake.fail("PATCH", "/issues/1$", status=status)

    with pytest.raises(TrackerError):
        tracker.update(1, draft(body="Changed.\n"))

    assert fake.count("PATCH", "/issues/1$") == 1


@pytest.mark.parametrize("status", [502, DROPPED])
def test_what_only_reads_is_asked_again(
    fake: FakeGithub, tracker: GithubTracker, status: int
) -> None:
    tracker.create(draft())
    fake.fail("GET", ISSUES, status=status, times=2)

    assert tracker.find(draft().marker) == [Issue(1, f"{fake.api}/{REPO}/issues/1")]


def test_a_list_that_stays_away_is_an_error_and_not_an_empty_list(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.fail("GET", ISSUES, times=3)

    with pytest.raises(TrackerError) as caught:
        tracker.find(draft().marker)
    assert caught.value.retry_after_s


def test_an_answer_that_is_not_githubs_is_a_tracker_error(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.faults.clear()
    fake.fail("GET", "/issues/1$", status=200, message="Welcome to the hotel's network")

    with pytest.raises(TrackerError):
        tracker.update(1, draft(body="Changed.\n"))


def test_nobody_listening_is_a_tracker_error() -> None:
    with FakeGithub() as fake:
        pass

    with (
        closing(GithubTracker(REPO, fake.api, TOKEN, AT_ONCE)) as tracker,
        pytest.raises(TrackerError) as caught,
    ):
        tracker.find(draft().marker)
    assert caught.value.hint


# Limits


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("message", "headers", "wait_s"),
    [
        (SECONDARY, {"Retry-After": "7"}, 7),
        (SECONDARY, {}, LIMITED_WAIT_S),
        (SECONDARY, {"Retry-After": "86400"}, LIMITED_WAIT_S_MAX),
        (CONTENT, {"Retry-After": "60"}, 60),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_limit_is_told_with_its_time_and_nothing_is_asked_again(
    fake: FakeGithub,
    tracker: GithubTracker,
    method: str,
    status: int,
    message: str,
    headers: dict[str, str],
    wait_s: float,
) -> None:
    fake.fail(method, ISSUES, status=status, message=message, headers=headers)

    with pytest.raises(TrackerLaterError) as caught:
        tracker.find(draft().marker) if method == "GET" else tracker.create(draft())

    assert caught.value.retry_after_s == wait_s
    assert fake.count(method, ISSUES) == 1
    assert fake.repository.issues == {}


def test_the_hourly_limit_ends_when_github_says_so_by_its_own_clock(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    wrong_now_s = time.time() - 86_400
    headers = {
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(wrong_now_s) + 600),
        "Date": email.utils.formatdate(int(wrong_now_s), usegmt=True),
    }
    fake.fail("GET", ISSUES, status=403, message=PRIMARY, headers=headers)

    with pytest.raises(TrackerLaterError) as caught:
        tracker.find(draft().marker)

    assert caught.value.retry_after_s == 601


@pytest.mark.parametrize(
    "nonsense",
    [{"X-RateLimit-Reset": "soon"}, {"Date": "yesterday"}, {"X-RateLimit-Reset": "nan"}],
)
def test_a_limit_that_is_told_in_nonsense_is_waited_out_all_the_same(
    fake: FakeGithub, tracker: GithubTracker, nonsense: dict[str, str]
) -> None:
    headers = {
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1800000000",
        "Date": email.utils.formatdate(1_800_000_000, usegmt=True),
        **nonsense,
    }
    fake.fail("GET", ISSUES, status=403, message=PRIMARY, headers=headers)

    with pytest.raises(TrackerError) as caught:  # PyGithub itself stumbles over some of it
        tracker.find(draft().marker)

    assert caught.value.retry_after_s >= 1


def test_a_machine_whose_certificates_are_gone_is_a_tracker_error(
    tracker: GithubTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle")
    https = GithubTracker("o/r", "https://127.0.0.1:1", "token")

    with pytest.raises(TrackerError):
        https.survey()
    https.close()


def test_a_limit_without_a_time_is_waited_out_longer_each_time_until_a_write_passes(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    waits: list[float] = []
    for times in (1, 1, 1, 0, 1):
        if times:
            fake.fail("POST", ISSUES, status=403, message=SECONDARY)
        try:
            tracker.create(draft())
        except TrackerLaterError as error:
            waits.append(error.retry_after_s)

    assert waits == [60, 120, 240, 60]


def test_past_the_limit_on_content_nothing_is_made(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    fake.creations_left = 1
    tracker.create(draft("a"))

    with pytest.raises(TrackerLaterError):
        tracker.create(draft("b"))

    assert len(fake.repository.issues) == 1


# Which issues are ours


def test_an_issue_is_found_at_once_although_search_does_not_know_it_yet(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    issue = tracker.create(draft())

    assert fake.repository.found(draft().marker) == []
    assert tracker.find(draft().marker) == [issue]


def test_an_issue_is_found_whatever_its_state_and_however_many_there_are(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    for number in range(150):
        fake.open_issue(US, "old", marker_of(f"{number:012x}"), "covey")
    issue = tracker.create(draft())
    fake.close_issue(issue.number)

    assert tracker.find(draft().marker) == [issue]
    assert len(tracker.survey()) == 151


def test_a_marker_that_a_stranger_copied_counts_for_nothing(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    copied = fake.open_issue(STRANGER, "Mine", f"Look.\n{draft().marker}\n", "covey")

    assert tracker.find(draft().marker) == []
    with pytest.raises(IssueGoneError):
        tracker.update(copied, draft())
    assert fake.count("PATCH", "/issues/") == 0


def test_an_issue_whose_author_has_left_github_is_passed_over(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    number = fake.open_issue(STRANGER, "Mine", draft().marker, "covey")
    fake.issue(number)["user"] = None

    assert tracker.find(draft().marker) == []


def test_duplicates_come_after_the_issue_that_goes_on(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    for _ in range(3):
        tracker.create(draft())
    fake.close_issue(1, "duplicate")

    assert [each.number for each in tracker.find(draft().marker)] == [2, 3, 1]


def test_an_issue_that_a_person_deleted_is_gone(fake: FakeGithub, tracker: GithubTracker) -> None:
    tracker.create(draft())
    del fake.repository.issues[1]

    with pytest.raises(IssueGoneError):
        tracker.update(1, draft())


# What an issue says


def test_labels_are_made_once_with_a_colour(fake: FakeGithub, tracker: GithubTracker) -> None:
    tracker.create(draft("a"))
    tracker.create(draft("b"))

    assert fake.repository.labels["covey"]["color"] == "5319e7"
    assert fake.count("POST", "/labels$") == 1


def test_a_label_that_was_there_is_taken_as_it_is(fake: FakeGithub, tracker: GithubTracker) -> None:
    fake.repository.make_label("covey", "123456")

    tracker.create(draft("a"))

    assert fake.repository.labels["covey"]["color"] == "123456"
    assert label_names(fake, 1) == ["covey"]


def test_an_edit_changes_our_labels_and_keeps_those_of_people(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.repository.edit(1, {"labels": ["help wanted", "covey"]})

    tracker.update(1, draft(labels=("covey", "regression")))
    assert label_names(fake, 1) == ["help wanted", "covey", "regression"]
    tracker.update(1, draft())
    assert label_names(fake, 1) == ["help wanted", "covey"]


def test_an_issue_that_says_it_already_is_not_edited(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())

    tracker.update(1, draft())

    assert fake.count("PATCH", "/issues/1$") == 0


def test_what_people_wrote_below_stays_as_it_is(fake: FakeGithub, tracker: GithubTracker) -> None:
    tracker.create(draft())
    noted = fake.issue(1)["body"].replace("\n", "\r\n") + "\r\n\r\nIt is the cable. — Bob"
    fake.repository.edit(1, {"body": noted})

    tracker.update(1, draft(body="Changed.\n"))
    tracker.update(1, draft(body="Changed again.\n"))

    body = fake.issue(1)["body"]
    assert body.startswith("Changed again.\n\n" + draft().marker)
    assert body.endswith(f"{FOOTER}\n\nIt is the cable. — Bob")
    assert body.count("covey-wrote") == 1


def test_a_title_is_ours_until_a_person_changes_it(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())

    tracker.update(1, draft(title="Ours"))
    assert fake.issue(1)["title"] == "Ours"
    fake.repository.edit(1, {"title": "The cable is broken"})
    for title in ("Ours again", "And again"):
        tracker.update(1, draft(title=title))
    assert fake.issue(1)["title"] == "The cable is broken"


def test_a_body_that_is_too_long_is_cut_and_its_fence_closed(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    long = "Ours.\n\n" + "\n\n".join(fence("```\n" + "x y\n" * 4_900) for _ in range(4)) + "\n"
    tracker.create(draft(body=long, title="t" * 300))

    body, title = fake.issue(1)["body"], fake.issue(1)["title"]
    assert len(body) <= MAX_BODY_CHARS
    assert len(title) == 200
    assert body.count("\n````\n") == body.count("````text\n")
    assert [each.number for each in tracker.find(draft().marker)] == [1]


def test_an_issue_that_github_refuses_is_told_apart_from_an_outage(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    fake.fail("POST", ISSUES, status=422, message="Validation Failed")

    with pytest.raises(DraftRefusedError, match="Validation Failed"):
        tracker.create(draft())


# What people do


def test_a_persons_closing_is_read_and_left_until_the_records_know_it(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.close_issue(1, "not_planned")

    [seen] = tracker.survey()
    tracker.update(1, draft(body="Counted further.\n"))

    assert (seen.closed_as, seen.closing) == (
        "not_planned",
        f"{tracker.name}#1 closed {fake.issue(1)['closed_at']}",
    )
    assert fake.issue(1)["state"] == "closed"
    assert "Counted further." in fake.issue(1)["body"]
    assert tracker.survey() == [seen]


def test_an_issue_whose_closing_is_known_opens_when_the_fault_is_back(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.close_issue(1)
    [seen] = tracker.survey()

    tracker.update(1, draft(closing=seen.closing, labels=("covey", "regression")))

    assert fake.issue(1)["state"] == "open"
    assert label_names(fake, 1) == ["covey", "regression"]


def test_a_second_closing_is_another_one(fake: FakeGithub, tracker: GithubTracker) -> None:
    tracker.create(draft())
    fake.close_issue(1)
    [first] = tracker.survey()
    fake.reopen_issue(1)
    fake.close_issue(1)

    [second] = tracker.survey()
    tracker.update(1, draft(closing=first.closing))

    assert first.closing != second.closing
    assert fake.issue(1)["state"] == "closed"


@pytest.mark.parametrize("reason", ["completed", "not_planned", "duplicate"])
def test_what_we_closed_and_a_person_opened_is_read_and_left(
    fake: FakeGithub, tracker: GithubTracker, reason: Any
) -> None:
    tracker.create(draft())
    tracker.update(1, draft(closed_as=reason))
    assert (fake.issue(1)["state"], fake.issue(1)["state_reason"]) == ("closed", reason)
    fake.reopen_issue(1)

    [seen] = tracker.survey()
    tracker.update(1, draft(closed_as=reason, body="Still closed, we think.\n"))

    assert seen.is_reopened
    assert fake.issue(1)["state"] == "open"


def test_what_a_person_closed_and_opened_again_is_not_closed_by_us(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    tracker.create(draft())
    fake.close_issue(1)
    [seen] = tracker.survey()
    fake.reopen_issue(1)

    tracker.update(1, draft(closed_as="completed", closing=seen.closing))

    assert fake.issue(1)["state"] == "open"


# Token, permissions, names


def test_a_token_that_is_refused_is_told_with_what_to_do_and_never_named(
    fake: FakeGithub, tracker: GithubTracker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("github", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    fake.tokens.clear()

    with pytest.raises(TrackerError) as caught:
        tracker.find(draft().marker)

    assert caught.value.retry_after_s == PERSON_WAIT_S
    assert caught.value.hint
    assert TOKEN not in caplog.text + repr(caught.value) + repr(vars(caught.value))


def test_who_may_not_label_files_nothing_since_nothing_would_be_found_again(
    fake: FakeGithub, tracker: GithubTracker
) -> None:
    fake.repository.may_label = False

    with pytest.raises(TrackerError, match="may not label"):
        tracker.create(draft())

    assert fake.count("POST", "/") == 0


def test_a_repository_that_is_not_there_is_told_with_what_to_do(fake: FakeGithub) -> None:
    with (
        closing(GithubTracker("acme/nothing", fake.api, TOKEN, AT_ONCE)) as tracker,
        pytest.raises(TrackerError, match="404 about acme/nothing") as caught,
    ):
        tracker.find(draft().marker)

    assert caught.value.hint


def test_trackers_of_two_repositories_have_two_names() -> None:
    assert name_of("Acme/Faults", "https://api.github.com") == "github:acme/faults"
    assert (
        name_of("acme/faults", "https://ghe.acme.org/api/v3") == "github:ghe.acme.org/acme/faults"
    )
