"""Storms: the first reports of a fault in full, then only how often it happened.

Time is an argument, in seconds of any clock that does not go back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from protocols.limits import (
    STORM_COUNT_INTERVAL_S,
    STORM_FINGERPRINTS_MAX,
    STORM_FULL_REPORTS,
    STORM_NEW_FINGERPRINTS_MAX,
    STORM_NEW_WINDOW_S,
    STORM_QUIET_S,
)
from protocols.report import Report


@dataclass(slots=True)
class _Seen:
    """What the gate knows of one fingerprint."""

    last_s: float
    full: int = 0
    held: int = 0
    newest: Report | None = None
    held_since_s: float = 0.0


class StormGate:
    """Decides which reports are recorded; nothing is lost but what ``dropped`` counts.

    Of each fingerprint the first five pass in full. Later ones are held and pass once a minute as
    one report that stands for all of them (``count``). A fault that was quiet for an hour starts
    afresh. New fingerprints have a budget of their own: a message that is different each time must
    not fill the feed; those past it are dropped and counted.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """How many reports were neither passed nor counted, since the start."""
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._window_start_s = float("-inf")
        self._window_new = 0

    def admit(self, report: Report, now_s: float) -> tuple[Report, ...]:
        """Return what to record now: the report, nothing, or counts that had to make room."""
        seen = self._seen.get(report.fingerprint)
        evicted: tuple[Report, ...] = ()
        if seen is None:
            if not self._may_be_new(now_s):
                self.dropped += report.count
                return ()
            evicted = self._make_room()
            seen = self._seen[report.fingerprint] = _Seen(last_s=now_s)
        self._seen.move_to_end(report.fingerprint)
        return evicted + self._pass_or_hold(seen, report, now_s)

    def due(self, now_s: float) -> tuple[Report, ...]:
        """Return the counts whose minute is over; call it about once a minute."""
        ripe = [
            seen
            for seen in self._seen.values()
            if seen.held and now_s - seen.held_since_s >= STORM_COUNT_INTERVAL_S
        ]
        return tuple(_release(seen) for seen in ripe)

    def drain(self) -> tuple[Report, ...]:
        """Return every count that is held, when the process stops."""
        return tuple(_release(seen) for seen in self._seen.values() if seen.held)

    def _may_be_new(self, now_s: float) -> bool:
        if now_s - self._window_start_s >= STORM_NEW_WINDOW_S:
            self._window_start_s = now_s
            self._window_new = 0
        self._window_new += 1
        return self._window_new <= STORM_NEW_FINGERPRINTS_MAX

    def _make_room(self) -> tuple[Report, ...]:
        if len(self._seen) < STORM_FINGERPRINTS_MAX:
            return ()
        _, oldest = self._seen.popitem(last=False)
        return (_release(oldest),) if oldest.held else ()

    def _pass_or_hold(self, seen: _Seen, report: Report, now_s: float) -> tuple[Report, ...]:
        quiet_s = now_s - seen.last_s
        seen.last_s = now_s
        if quiet_s >= STORM_QUIET_S:
            seen.full = 0
        if seen.full < STORM_FULL_REPORTS:
            seen.full += 1
            return (report,)
        if not seen.held:
            seen.held_since_s = now_s
        seen.held += report.count
        seen.newest = report
        return ()


def _release(seen: _Seen) -> Report:
    """Return the newest held report with the count of all, and start counting again."""
    assert seen.newest is not None, "whatever is held has a newest report"
    count, seen.held = seen.held, 0
    return msgspec.structs.replace(seen.newest, count=count)
