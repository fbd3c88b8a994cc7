"""Reports and groups for tests, made the way a peer makes them."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.faults import Occurrence
from aggregator.groups import Group, group
from peer.capture import About, Origin, report_of
from protocols import dagcbor
from protocols.cid import CID
from protocols.report import ExceptionInfo, Frame, Report

PEERS = (
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
    "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu",
)
START_US = 1_795_000_000_000_000  # 2026-11-18
ORIGIN = Origin(component="worker", release="0.1.0")


def chain(
    message: str = "it broke", kind: str = "ValueError", function: str = "Worker.run"
) -> tuple[ExceptionInfo, ...]:
    frames = (Frame("node.daemon", "run", 10), Frame("node.worker", function, 20))
    return (ExceptionInfo(kind, "builtins", message, frames),)


def a_report(
    message: str = "it broke",
    *,
    function: str = "Worker.run",
    time_us: int = START_US,
    release: str = "0.1.0",
    about: About | None = None,
) -> Report:
    origin = Origin(component="worker", release=release)
    about = about or About()
    return report_of(chain(message, function=function), origin, time_us=time_us, about=about)


def occurrence(report: Report, peer: str = PEERS[0]) -> Occurrence:
    """The report as peer's record; equal reports of one peer are one record."""
    return Occurrence(report, peer, CID.of(dagcbor.encode([peer, report.to_attributes()])))


def occurrences(function: str, count: int = 3, peers: int = 2) -> list[Occurrence]:
    """So many reports of one fault, in the function of that name."""
    return [
        occurrence(a_report(function=function, time_us=START_US + n), PEERS[n % peers])
        for n in range(count)
    ]


def a_group(function: str = "Worker.run", count: int = 3, peers: int = 2) -> Group:
    [only] = group(occurrences(function, count, peers))
    return only


def one_group(reports: Sequence[Occurrence]) -> Group:
    [only] = group(reports)
    return only
