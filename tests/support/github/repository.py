"""The state of the fake: one repository's issues and labels, and whose token is whose."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.github.schema import EXAMPLES_LACK, Operation

REPO = "acme/faults"
TOKEN = "ghp_covey0000000000000000000000000000000"
US, STRANGER = "covey-bot", "mallory"
USER_IDS = {US: 4_242, STRANGER: 666}
CLOCK_START = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Repository:
    """What GitHub keeps; every change takes a second of a clock that only changes turn."""

    base_url: str
    issues: dict[int, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    searchable: set[int] = field(default_factory=set)
    """Numbers that search knows already."""
    may_label: bool = True
    number: int = 0
    ticks: int = 0

    @property
    def url(self) -> str:
        return f"{self.base_url}/repos/{REPO}"

    def now(self) -> str:
        self.ticks += 1
        return f"{CLOCK_START + timedelta(seconds=self.ticks):%Y-%m-%dT%H:%M:%SZ}"

    def user(self, operation: Operation, login: str) -> dict[str, Any]:
        return {**operation.example(), "login": login, "id": USER_IDS[login]}

    def itself(self, operation: Operation) -> dict[str, Any]:
        shown = {**EXAMPLES_LACK, **operation.example(), "full_name": REPO, "url": self.url}
        for relative in ("source", "parent", "template_repository"):
            shown.pop(relative, None)
        may = {"push": self.may_label, "triage": self.may_label, "pull": True, "admin": False}
        return {**shown, "permissions": may}

    def create(self, template: dict[str, Any], body: dict[str, Any], author: str) -> dict[str, Any]:
        """Add an issue; ``template`` is GitHub's example of one."""
        self.number += 1
        url = f"{self.url}/issues/{self.number}"
        at = self.now()
        user = {**template["user"], "login": author, "id": USER_IDS[author]}
        issue = {
            **template,
            "id": 10**9 + self.number,
            "number": self.number,
            "url": url,
            "user": user,
            "html_url": f"{self.base_url}/{REPO}/issues/{self.number}",
            "repository_url": self.url,
            "labels_url": f"{url}/labels{{/name}}",
            "comments_url": f"{url}/comments",
            "events_url": f"{url}/events",
            "title": str(body["title"]),
            "body": body.get("body"),
            "comments": 0,
            "state": "open",
            "state_reason": None,
            "closed_at": None,
            "closed_by": None,
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "locked": False,
            "active_lock_reason": None,
            "created_at": at,
            "updated_at": at,
        }
        issue.pop("pull_request", None)
        self.issues[self.number] = issue
        self._set_labels(issue, body.get("labels") or ())
        return issue

    def edit(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """Change an issue, by whomever."""
        issue = self.issues[number]
        issue |= {key: body[key] for key in ("title", "body") if key in body}
        if "labels" in body:
            self._set_labels(issue, body["labels"])
        issue["updated_at"] = self.now()
        if body.get("state", issue["state"]) != issue["state"]:
            is_closed = body["state"] == "closed"
            reason = body.get("state_reason") or ("completed" if is_closed else "reopened")
            closed_at = issue["updated_at"] if is_closed else None
            issue |= {"state": body["state"], "state_reason": reason, "closed_at": closed_at}
        return issue

    def listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = set(filter(None, query.get("labels", "").split(",")))
        found = [
            issue
            for issue in self.issues.values()
            if query.get("state", "open") in ("all", issue["state"])
            and wanted <= {label["name"] for label in issue["labels"]}
        ]
        is_newest_first = query.get("direction", "desc") == "desc"
        return sorted(found, key=lambda issue: issue["number"], reverse=is_newest_first)

    def found(self, words: str) -> list[dict[str, Any]]:
        """Search, which knows only what was indexed."""
        known = [self.issues[number] for number in sorted(self.searchable & self.issues.keys())]
        return [issue for issue in known if words in (issue["body"] or "")]

    def make_label(self, name: str, color: str = "ededed", text: str | None = None) -> Any:
        """Return a label, which GitHub makes whenever one that may does use it."""
        url = f"{self.url}/labels/{name}"
        number = len(self.labels) + 1
        label = {"id": number, "node_id": f"L{number}", "url": url, "name": name, "color": color}
        return self.labels.setdefault(name, {**label, "description": text, "default": False})

    def _set_labels(self, issue: dict[str, Any], labels: Any) -> None:
        if not self.may_label:
            return  # GitHub drops them and says nothing
        names = [each if isinstance(each, str) else each["name"] for each in labels]
        issue["labels"] = [self.make_label(name) for name in dict.fromkeys(names)]
