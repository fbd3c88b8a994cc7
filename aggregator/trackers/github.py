"""The GitHub tracker: issues of one repository, for whoever reads it. The only importer of github.

GitHub answers late, twice or never, so what it says is believed only in this order: what the list
of issues shows is true; what a create answers is true; anything else says nothing about whether the
issue exists. Search is never asked, for it lags. Writes are never repeated here, and nothing waits
here for a limit: the error says when to come back.

An issue is ours if the token's own user wrote it and it carries a marker: anybody may copy one.
Below the marker a note keeps what we wrote last, so that what people change afterwards (the state,
the title, labels, text below it) is told apart from it and left alone.
"""

from __future__ import annotations

import email.utils
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import github
import requests
import urllib3
from github.Issue import Issue as GithubIssue
from github.Repository import Repository

from aggregator.draft import LABEL, MAX_TITLE_CHARS, REGRESSION_LABEL, marker_in
from aggregator.trackers import (
    ClosedAs,
    Draft,
    DraftRefusedError,
    Issue,
    IssueGoneError,
    Seen,
    TrackerError,
    TrackerLaterError,
    closing_of,
)
from aggregator.trackers.github_body import FOOTER, Note, below, checksum, note_in, render

T = TypeVar("T")

MAX_ISSUES: Final = 10_000  # a hundred requests; so many faults need another tool than a list
SETTLE_S: Final = 60.0  # GitHub ends a request after 10 s, and we ours after TIMEOUT_S
TIMEOUT_S: Final = 15
LIMITED_WAIT_S: Final = 60.0  # what GitHub asks for where it names no time; doubled each time
LIMITED_WAIT_S_MAX: Final = 3_660.0  # its longest window is an hour
OUTAGE_WAIT_S: Final = 30.0
PERSON_WAIT_S: Final = 300.0  # a token or a permission does not mend itself
LABELS: Final = {  # ours to give and take, with colour and description; all others are people's
    LABEL: ("5319e7", "Filed by covey"),
    REGRESSION_LABEL: ("b60205", "Back after it was fixed"),
}

# PyGithub tells each refusal on a handler of its own; ours is told once, by the filer.
logging.getLogger("github").handlers.clear()
logging.getLogger("github").setLevel(logging.ERROR)

# Middleboxes answer anything, and PyGithub checks answers by assertions.
_SURPRISES: Final = (
    github.BadAttributeException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    AssertionError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to ask, in seconds; a write is anything but a GET."""

    between_requests_s: float = 0.25
    between_writes_s: float = 1.0
    before_retry_s: float = 1.0
    """Of a GET, doubled each time."""


class GithubTracker:
    """Issues of ``repo`` (``owner/name``); blocking, so use it through ``InThread``."""

    settle_s = SETTLE_S

    def __init__(self, repo: str, api: str, token: str, pace: Pace | None = None) -> None:
        pace = pace or Pace()
        self.name = name_of(repo, api)
        self._wanted = repo
        self._limited_wait_s = LIMITED_WAIT_S
        self._labels: set[str] = set()
        self._opened: tuple[Repository, int] | None = None
        self._github = github.Github(
            auth=github.Auth.Token(token),
            base_url=api.rstrip("/"),
            timeout=TIMEOUT_S,
            user_agent="covey-aggregator",
            per_page=100,
            retry=_gets_only(pace),
            seconds_between_requests=pace.between_requests_s,
            seconds_between_writes=pace.between_writes_s,
            lazy=True,
        )

    def close(self) -> None:
        """Close the connections."""
        self._github.close()

    def find(self, marker: str) -> list[Issue]:
        """Return our issues with that marker: the lowest number first, duplicates last."""
        found = [each for each in self.survey() if each.marker == marker]
        found.sort(key=lambda each: (each.closed_as == "duplicate", each.issue.number))
        return [each.issue for each in found]

    def survey(self) -> list[Seen]:
        """Return every issue of ours in any state, from the list by label: all or an error."""
        return self._asked(lambda: list(self._seen(*self._repo())))

    def create(self, draft: Draft) -> Issue:
        """Create the issue, by one request that is never repeated."""
        repo, _ = self._asked(self._repo)
        self._make_labels(repo, draft)
        title = draft.title[:MAX_TITLE_CHARS]
        body = render(draft, Note(draft.is_open, checksum(title)), FOOTER)
        labels = list(draft.labels)
        return self._written(
            lambda: _named(repo.create_issue(title=title, body=body, labels=labels))
        )

    def update(self, number: int, draft: Draft) -> None:
        """Make the issue say the draft, but for what people changed since, by one edit.

        Raises ``IssueGoneError`` if it was deleted or is not ours any more.
        """
        repo, we = self._asked(self._repo)
        issue = self._asked(lambda: _issue(repo, number))
        if issue is None or not self._asked(lambda: _is_ours(issue, we, draft.marker)):
            raise IssueGoneError(f"issue {number} was deleted, or does not carry our marker")
        changes = self._asked(lambda: self._changes(issue, draft))
        if changes:
            self._make_labels(repo, draft)
            self._written(lambda: issue.edit(**changes))

    # What is there

    def _repo(self) -> tuple[Repository, int]:
        """Return the repository and the id of the token's user, asked for once."""
        if self._opened is None:
            repo = self._github.get_repo(self._wanted)
            if not (repo.permissions.push or repo.permissions.triage):
                # GitHub drops labels of those who may not give any: nothing would be found again.
                raise TrackerError(
                    f"the token may not label issues of {self._wanted}",
                    hint="its user needs the triage or write role there",
                    retry_after_s=PERSON_WAIT_S,
                )
            self._opened = repo, self._github.get_user().id
        return self._opened

    def _seen(self, repo: Repository, we: int) -> Iterator[Seen]:
        pages = repo.get_issues(state="all", labels=[LABEL], sort="created", direction="asc")
        for count, issue in enumerate(pages):
            if count >= MAX_ISSUES:
                raise TrackerError(
                    f"{self._wanted} has more than {MAX_ISSUES:,} issues labelled {LABEL}",
                    hint="take the label off old ones",
                    retry_after_s=PERSON_WAIT_S,
                )
            marker = _marker(issue)
            if marker and _author(issue) == we and "/pull/" not in issue.html_url:
                yield self._state(issue, marker)

    def _state(self, issue: GithubIssue, marker: str) -> Seen:
        is_open, was_open = issue.state == "open", note_in(_body(issue)).is_open
        return Seen(
            issue=_named(issue),
            marker=marker,
            closed_as="" if is_open else _closed_as(issue),
            closing=self._closing(issue) if was_open else "",
            closed_us=0 if is_open else int(issue.closed_at.timestamp() * 1e6),
            is_reopened=is_open and not was_open,
        )

    def _closing(self, issue: GithubIssue) -> str:
        """Name the closing that stands, whoever did it."""
        if issue.state == "open":
            return ""
        return closing_of(self.name, issue.number, f"{issue.closed_at:%Y-%m-%dT%H:%M:%SZ}")

    # What to change

    def _changes(self, issue: GithubIssue, draft: Draft) -> dict[str, Any]:
        """Return what an edit must set so that the issue says the draft."""
        old, title = _body(issue), draft.title[:MAX_TITLE_CHARS]
        note = note_in(old)
        changes = self._turn(issue, draft, note)
        is_left = draft.is_open != (issue.state == "open") and not changes
        is_title_ours = checksum(issue.title) == note.title_sum
        if is_title_ours and issue.title != title:
            changes["title"] = title
        note = Note(
            note.is_open if is_left else draft.is_open,
            checksum(title) if is_title_ours else note.title_sum,
        )
        body = render(draft, note, below(old, draft.marker))
        if body.rstrip() != old.rstrip():
            changes["body"] = body
        names = [label.name for label in issue.labels]
        labels = [name for name in names if name not in LABELS or name in draft.labels]
        labels += [name for name in draft.labels if name not in names]
        if labels != names:
            changes["labels"] = labels
        return changes

    def _turn(self, issue: GithubIssue, draft: Draft, note: Note) -> dict[str, Any]:
        """Return how to close or open the issue; nothing if a person did the contrary and no
        record says so yet, for that will be read back.
        """
        is_open = issue.state == "open"
        if draft.is_open == is_open:
            return {}
        if is_open:
            closings = closing_of(self.name, issue.number)
            is_reopened = not note.is_open or draft.closing.startswith(closings)
            return {} if is_reopened else {"state": "closed", "state_reason": draft.closed_as}
        is_known = not note.is_open or draft.closing == self._closing(issue)
        return {"state": "open", "state_reason": "reopened"} if is_known else {}

    def _make_labels(self, repo: Repository, draft: Draft) -> None:
        for name in draft.labels:
            if name not in self._labels:
                self._asked(lambda name=name: _make_label(repo, name))
                self._labels.add(name)

    # What can go wrong

    def _asked(self, question: Callable[[], T]) -> T:
        """Return GitHub's answer; whatever else comes of it is a ``TrackerError``."""
        try:
            return question()
        except github.GithubException as error:
            raise self._refusal(error) from error
        except _SURPRISES as error:
            raise TrackerError(
                f"GitHub gave no answer that can be used: {type(error).__name__}",
                hint="look at the network, at github.api, and at githubstatus.com",
                retry_after_s=OUTAGE_WAIT_S,
            ) from error

    def _written(self, write: Callable[[], T]) -> T:
        """Return the answer to a write, whose content may be refused."""
        try:
            answer = self._asked(write)
        except TrackerError as error:
            cause = error.__cause__
            if isinstance(cause, github.GithubException) and cause.status == 422:
                raise DraftRefusedError(f"GitHub refuses it: {_said(cause)}") from cause
            raise
        self._limited_wait_s = LIMITED_WAIT_S
        return answer

    def _refusal(self, error: github.GithubException) -> TrackerError:
        if _is_limit(error):
            wait_s = self._wait_s(error.headers or {})
            return TrackerLaterError(
                f"GitHub wants no requests for {wait_s:.0f} s", retry_after_s=wait_s
            )
        if error.status >= 500:
            return TrackerError(f"GitHub answers {error.status}", retry_after_s=OUTAGE_WAIT_S)
        return TrackerError(
            f"GitHub answers {error.status} about {self._wanted}: {_said(error)}",
            hint="look at github.repo, and at the token's end and permission (Issues: write)",
            retry_after_s=PERSON_WAIT_S,
        )

    def _wait_s(self, headers: dict[str, str]) -> float:
        """Return how long GitHub wants to be left alone, by its own clock."""
        wait_s = _told_wait_s(headers)
        if wait_s is None:
            wait_s = self._limited_wait_s
            self._limited_wait_s *= 2
        return min(max(wait_s, 1.0), LIMITED_WAIT_S_MAX)


def _told_wait_s(headers: dict[str, str]) -> float | None:
    """Return how long a limit lasts, if the answer says so in a way that makes sense."""
    if headers.get("retry-after", "").isdecimal():
        return float(headers["retry-after"])
    if headers.get("x-ratelimit-remaining") != "0":
        return None
    try:
        now_s = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
        wait_s = float(headers["x-ratelimit-reset"]) - now_s + 1
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return wait_s if math.isfinite(wait_s) else None


def name_of(repo: str, api: str) -> str:
    """Return the tracker's name in records: numbers of two repositories must never meet."""
    host = urlsplit(api).netloc.lower()
    return f"github:{repo.lower()}" if host == "api.github.com" else f"github:{host}/{repo.lower()}"


def _gets_only(pace: Pace) -> urllib3.Retry:
    """Repeat what failed by an outage, twice, if it is a GET.

    Not PyGithub's own: that one repeats a POST, and sleeps for as long as ``Retry-After`` says,
    whatever its ``max_rate_limit_wait`` is (2.10.0).
    """
    return urllib3.Retry(
        total=2,
        redirect=0,
        allowed_methods=frozenset({"GET"}),
        status_forcelist=(500, 502, 503, 504),
        backoff_factor=pace.before_retry_s,
        raise_on_status=False,
        respect_retry_after_header=False,
    )


# The library's objects


def _is_ours(issue: GithubIssue, we: int, marker: str) -> bool:
    return _author(issue) == we and _marker(issue) == marker


def _issue(repo: Repository, number: int) -> GithubIssue | None:
    try:
        return repo.get_issue(number).complete()
    except github.GithubException as error:
        if error.status in (404, 410):
            return None
        raise


def _make_label(repo: Repository, name: str) -> None:
    try:
        repo.get_label(name).complete()
    except github.UnknownObjectException:
        try:
            repo.create_label(name, *LABELS[name])
        except github.GithubException as error:
            if error.status != 422:  # somebody made it meanwhile
                raise


def _named(issue: GithubIssue) -> Issue:
    return Issue(issue.number, issue.html_url)


def _body(issue: GithubIssue) -> str:
    return (issue.body or "").replace("\r\n", "\n")  # the web's editor ends lines so


def _marker(issue: GithubIssue) -> str | None:
    return marker_in(_body(issue))


def _author(issue: GithubIssue) -> int:
    return issue.user.id if issue.user else 0  # the account may be gone


def _closed_as(issue: GithubIssue) -> ClosedAs:
    match issue.state_reason:
        case "not_planned" | "duplicate" as reason:
            return reason
        case _:
            return "completed"  # before 2022 there was no other


def _said(error: github.GithubException) -> str:
    """Return what GitHub says of it, in one line."""
    said: Any = error.data
    message = cast("dict[str, Any]", said).get("message") if isinstance(said, dict) else said
    return " ".join(str(message).split())[:200]


def _is_limit(error: github.GithubException) -> bool:
    headers = error.headers or {}
    return error.status == 429 or (
        error.status == 403
        and (
            "retry-after" in headers
            or headers.get("x-ratelimit-remaining") == "0"
            or "rate limit" in _said(error).lower()
        )
    )
