"""What is known of each fault, a fault being all reports of one fingerprint.

A summary depends on the set of reports alone, not on the order in which they arrived, and stays
small however many there are: counts, extremes, and the latest few of what may be many.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from protocols.cid import CID
from protocols.fingerprint import Fingerprint, fingerprint_of
from protocols.report import Report

MAX_RELEASES: Final = 50  # the latest ones; older say nothing about a regression
MAX_JOBS: Final = 5  # examples whose lineage a person may follow
MAX_MODELS: Final = 20


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A report as it arrived: who signed it and the CID of its record."""

    report: Report
    peer: str
    cid: CID


@dataclass(slots=True)
class Latest:
    """The latest few names, each with when it was last seen; the same in any order of arrival."""

    limit: int
    seen: dict[str, int] = field(default_factory=dict[str, int])

    def note(self, name: str, time_us: int) -> None:
        """Take in that ``name`` was seen at that time; an empty one says nothing."""
        if not name:
            return
        self.seen[name] = max(time_us, self.seen.get(name, 0))
        if len(self.seen) > self.limit:
            # Safe to forget: whatever stays only ever becomes later.
            del self.seen[min(self.seen, key=lambda each: (self.seen[each], each))]

    def names(self) -> tuple[str, ...]:
        """Return the names, the latest first."""
        return tuple(sorted(self.seen, key=lambda each: (-self.seen[each], each)))


@dataclass(slots=True)
class Fault:
    """All reports of one fingerprint, summed up."""

    identity: Fingerprint
    sample: Occurrence
    """The earliest one."""
    count: int = 0
    peers: set[str] = field(default_factory=set[str])
    first_seen_us: int = 1 << 63
    last_seen_us: int = 0
    releases: Latest = field(default_factory=lambda: Latest(MAX_RELEASES))
    jobs: Latest = field(default_factory=lambda: Latest(MAX_JOBS))
    models: Latest = field(default_factory=lambda: Latest(MAX_MODELS))

    def add(self, occurrence: Occurrence, identity: Fingerprint) -> None:
        """Take in one report, which must not have been taken in before."""
        report = occurrence.report
        if _age_key(occurrence) <= _age_key(self.sample):
            self.sample, self.identity = occurrence, identity
        self.count += report.count
        self.peers.add(occurrence.peer)
        self.first_seen_us = min(self.first_seen_us, report.time_us)
        self.last_seen_us = max(self.last_seen_us, report.time_us)
        self.releases.note(report.release, report.time_us)
        self.jobs.note(report.job_cid, report.time_us)
        self.models.note(report.model, report.time_us)


def _age_key(occurrence: Occurrence) -> tuple[int, bytes]:
    return occurrence.report.time_us, bytes(occurrence.cid)


class Faults:
    """Every fault that was reported, by fingerprint in hexadecimal."""

    def __init__(self) -> None:
        self.by_fingerprint: dict[str, Fault] = {}
        self.ignored: Counter[str] = Counter()
        """Reports by peer that claimed a fingerprint which their content does not have."""

    def add(self, occurrence: Occurrence) -> bool:
        """Take in one report; False if its fingerprint is a lie, and then it changes no fault.

        The caller passes each record once: feeds already refuse duplicates.
        """
        report = occurrence.report
        identity = fingerprint_of(report)
        if (report.fingerprint, report.coarse) != (identity.fine.hex(), identity.coarse.hex()):
            self.ignored[occurrence.peer] += 1
            return False
        fault = self.by_fingerprint.get(report.fingerprint)
        if fault is None:
            fault = self.by_fingerprint[report.fingerprint] = Fault(identity, occurrence)
        fault.add(occurrence, identity)
        return True
