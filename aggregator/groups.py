"""Groups: all reports of what people would call one fault.

A pure function of reports, decisions and filed issues, so that two aggregators that hold the same
records show the same groups, whatever the order of arrival. Usually a group is one place that
raises one type; a place with many different messages is many groups. Two things outrank that rule
for ever: an issue that was filed, whose group is never split, and what a person decided.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from aggregator.decisions import Decided, Decision, Filed, in_order
from aggregator.faults import Fault, Faults, Latest, Occurrence
from protocols.limits import MAX_GROUP_TEMPLATES

ID_CHARS: Final = 12  # 48 bits: among 10,000 groups two meet once in five million meshes

Status = Literal["open", "resolved", "ignored", "regressed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All reports of one fault, and what became of it."""

    id: str
    title: str
    culprit: str
    fingerprints: tuple[str, ...]
    count: int
    peers: tuple[str, ...]
    first_seen_us: int
    last_seen_us: int
    status: Status
    closing: str
    """The closing of an issue upon which the status rests, if it does."""
    issues: tuple[Filed, ...]
    """In every tracker. In each the first is the group's; any others were filed for groups that a
    person merged into this one.
    """
    sample: Occurrence
    """The earliest report."""
    jobs: tuple[str, ...]
    """CIDs of jobs in which it happened, the latest first."""
    models: tuple[str, ...]
    releases: tuple[str, ...]
    """The latest first."""

    def filed_in(self, tracker: str) -> Filed | None:
        """Return the group's issue in that tracker."""
        return next((each for each in self.issues if each.tracker == tracker), None)

    def duplicates_in(self, tracker: str) -> tuple[Filed, ...]:
        """Return the issues in that tracker which the group's own one replaces."""
        return tuple(each for each in self.issues if each.tracker == tracker)[1:]

    @property
    def filed(self) -> Filed | None:
        """The issue to show to people: one that they can reach from anywhere, if there is one."""
        return min(self.issues, key=lambda each: "://" not in each.where, default=None)

    @property
    def issue(self) -> int | None:
        """The number of the issue to show, once one is filed."""
        return self.filed.number if self.filed else None


def group(
    occurrences: Iterable[Occurrence],
    decided: Iterable[Decided] = (),
    filed: Iterable[Filed] = (),
) -> list[Group]:
    """Return the groups of a set of reports, the one seen last first; repeated ones count once."""
    faults = Faults()
    for occurrence in {each.cid: each for each in occurrences}.values():
        faults.add(occurrence)
    return group_faults(faults, decided, filed)


def group_faults(
    faults: Faults, decided: Iterable[Decided] = (), filed: Iterable[Filed] = ()
) -> list[Group]:
    """Return the groups of summed-up reports: a pure function, fast enough to ask at any time."""
    issues = list({(each.tracker, each.number): each for each in filed}.values())
    rulings = _rule(decided)
    members: defaultdict[str, list[Fault]] = defaultdict(list)
    for name, fault in _names(faults, rulings, issues):
        members[name].append(fault)
    issues_of: defaultdict[str, list[Filed]] = defaultdict(list)
    for issue in sorted(issues, key=lambda each: (each.number, each.where)):
        issues_of[rulings.root(issue.group)].append(issue)
    groups = [
        _group(name, members[name], issues_of[name], rulings.statuses.get(name)) for name in members
    ]
    return sorted(groups, key=lambda each: (-each.last_seen_us, each.id))


def short(digest: str) -> str:
    """Return the group id that a digest in hexadecimal gives."""
    return digest[:ID_CHARS]


# Which group a fault belongs to


@dataclass(slots=True)
class _Rulings:
    """What people decided, applied in order."""

    named: set[str] = field(default_factory=set[str])
    """Groups that a decision names: they keep their members from then on."""
    alone: set[str] = field(default_factory=set[str])
    """Fingerprints that were split off."""
    merged: dict[str, str] = field(default_factory=dict[str, str])
    statuses: dict[str, Decision] = field(default_factory=dict[str, Decision])

    def root(self, name: str) -> str:
        while name in self.merged:
            name = self.merged[name]
        return name


def _rule(decided: Iterable[Decided]) -> _Rulings:
    rulings = _Rulings()
    for each in in_order(decided):
        decision = each.decision
        rulings.named |= {decision.group, decision.into} - {""}
        if decision.action == "merge" and decision.into:
            _merge(rulings, decision)
        elif decision.action == "split":
            _split(rulings, decision)
        else:
            rulings.statuses[rulings.root(decision.group)] = decision
    return rulings


def _merge(rulings: _Rulings, decision: Decision) -> None:
    source, target = rulings.root(decision.group), rulings.root(decision.into)
    if source != target:  # already one; another link would close a circle
        rulings.merged[source] = target


def _split(rulings: _Rulings, decision: Decision) -> None:
    for fingerprint in decision.fingerprints:
        rulings.alone.add(fingerprint)
        rulings.merged.pop(short(fingerprint), None)


def _names(faults: Faults, rulings: _Rulings, issues: list[Filed]) -> Iterable[tuple[str, Fault]]:
    """Yield each fault with the id of its group."""
    kept = rulings.named | {issue.group for issue in issues}
    buckets: defaultdict[str, list[tuple[str, Fault]]] = defaultdict(list)
    for fingerprint, fault in faults.by_fingerprint.items():
        buckets[short(fault.identity.coarse.hex())].append((fingerprint, fault))
    for bucket, members in buckets.items():
        is_one = bucket in kept or len(members) <= MAX_GROUP_TEMPLATES
        for fingerprint, fault in members:
            own = short(fingerprint)
            is_alone = not is_one or fingerprint in rulings.alone or own in kept
            yield rulings.root(own if is_alone else bucket), fault


# What a group shows


def _group(
    name: str, members: list[Fault], issues: list[Filed], decision: Decision | None
) -> Group:
    oldest = min(members, key=lambda fault: (fault.first_seen_us, bytes(fault.sample.cid)))
    # The survivor of a merge keeps its own issue; the others are its duplicates.
    issues = sorted(issues, key=lambda issue: issue.group != name)
    releases = _united([fault.releases for fault in members])
    last_seen_us = max(fault.last_seen_us for fault in members)
    return Group(
        id=name,
        title=oldest.identity.title,
        culprit=oldest.identity.culprit,
        fingerprints=tuple(sorted(fault.sample.report.fingerprint for fault in members)),
        count=sum(fault.count for fault in members),
        peers=tuple(sorted(set[str]().union(*(fault.peers for fault in members)))),
        first_seen_us=oldest.first_seen_us,
        last_seen_us=last_seen_us,
        status=_status(decision, releases, last_seen_us),
        closing=decision.source if decision else "",
        issues=tuple(issues),
        sample=oldest.sample,
        jobs=_united([fault.jobs for fault in members]),
        models=_united([fault.models for fault in members]),
        releases=releases,
    )


def _united(parts: list[Latest]) -> tuple[str, ...]:
    whole = Latest(parts[0].limit)
    for part in parts:
        for name, time_us in part.seen.items():
            whole.note(name, time_us)
    return whole.names()


def _status(decision: Decision | None, releases: tuple[str, ...], last_seen_us: int) -> Status:
    if decision is None or decision.action == "reopen":
        return "open"
    if decision.action == "ignore":
        return "ignored"
    if not decision.releases:  # nobody says which release runs: only time can tell
        return "regressed" if last_seen_us > decision.time_us else "resolved"
    # Peers that were not updated yet go on reporting what is fixed: that is no regression.
    newest = max(map(release_key, decision.releases))
    is_back = any(release_key(release) > newest for release in releases)
    return "regressed" if is_back else "resolved"


def release_key(release: str) -> tuple[tuple[int, int, str], ...]:
    """Return what orders releases: numbers by value, so that 1.0.rc1 < 1.0 < 1.0.1 < 1.0.10."""
    parts = re.findall(r"\d{1,18}|[a-zA-Z]+", release)
    keys = [(2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
    return (*keys, (1, 0, ""))  # the end stands above a word and below a number
