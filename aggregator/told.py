"""What is told of groups of errors and of their issues, as JSON has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aggregator.explain import moment
from aggregator.faults import Fault
from aggregator.groups import Group, short
from aggregator.intake import Findings
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.report import RECORD_KIND, Report

MAX_SHOWN_REPORTS: Final = 100  # of one group; the rest is a count
NO_REPORTS: Final = "no reports left"
"""The status of an issue whose reports were all redacted or have not arrived; it stays as it is."""


def group_told(group: Group) -> dict[str, Any]:
    """Return a group with its counts, its issues and its fingerprints."""
    return {
        "id": group.id,
        "title": group.title,
        "culprit": group.culprit,
        "status": group.status,
        "count": group.count,
        "peers": list(group.peers),
        "issue": group.issue,
        "issue_where": group.filed.where if group.filed else None,
        "issues": [
            {"tracker": each.tracker, "number": each.number, "where": each.where}
            for each in group.issues
        ],
        "first_seen": moment(group.first_seen_us),
        "last_seen": moment(group.last_seen_us),
        "fingerprints": list(group.fingerprints),
        "jobs": list(group.jobs),
        "models": list(group.models),
        "releases": list(group.releases),
    }


def variant_told(fault: Fault) -> dict[str, Any]:
    """Return one of the fingerprints of a group."""
    return {
        "fingerprint": fault.sample.report.fingerprint,
        "title": fault.identity.title,
        "count": fault.count,
        "peers": sorted(fault.peers),
        "first_seen": moment(fault.first_seen_us),
        "last_seen": moment(fault.last_seen_us),
        "first_report": str(fault.sample.cid),
    }


def reports_told(group: Group, rows: list[RecordRow]) -> list[dict[str, Any]]:
    """Return the latest reports of a group, the latest first."""
    wanted = set(group.fingerprints)
    reports: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row.start_us, row.cid)):
        attributes = dagcbor.decode_verified(row.attributes)
        if attributes.get("fingerprint") not in wanted:
            continue
        report = Report.from_attributes(attributes)
        reports.append(
            {
                "cid": str(CID(row.cid)),
                "peer": peer_id_of(row.feed),
                "at": moment(report.time_us),
                "count": report.count,
                "fingerprint": report.fingerprint,
                "message": report.exceptions[0].value,
            }
        )
        if len(reports) >= MAX_SHOWN_REPORTS:
            break
    return reports


def issues_told(findings: Findings, groups: list[Group]) -> list[dict[str, Any]]:
    """Return every issue that any aggregator of the mesh filed, by number."""
    by_fingerprint = {short(name): group for group in groups for name in group.fingerprints}
    by_id = by_fingerprint | {group.id: group for group in groups}
    known = {(each.tracker, each.number): each for each in findings.filed}
    issues: list[dict[str, Any]] = []
    for (tracker, number), filed in sorted(known.items()):
        group = by_id.get(filed.group)
        issues.append(
            {
                "number": number,
                "tracker": tracker,
                "where": filed.where,
                "group": group.id if group else filed.group,
                "title": group.title if group else None,
                "status": group.status if group else NO_REPORTS,
                "count": group.count if group else None,
                "filed_at": moment(filed.time_us),
            }
        )
    return issues


def issues_from(
    rows: Iterable[RecordRow], issues: Iterable[dict[str, Any]], groups: Iterable[Group]
) -> list[dict[str, Any]]:
    """Return the issues of the groups in which reports are, for a person to look at."""
    reports = [row for row in rows if row.kind == RECORD_KIND]
    names = {dagcbor.decode_verified(row.attributes).get("fingerprint") for row in reports}
    concerned = {group.id for group in groups if names.intersection(group.fingerprints)}
    kept = ("tracker", "number", "where")
    return [{key: issue[key] for key in kept} for issue in issues if issue["group"] in concerned]
