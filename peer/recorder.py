"""The one way in which anything gets recorded.

Observability never breaks work: what is wrong with a record itself (an attribute that does not
encode, a report that is too large) is logged, and the record is written without it. There is one
exception, and it is a promise: a record that was asked for is on the disk when the call returns.
When the disk is full the call raises ``JournalFullError``, so that nobody hears of work that
nothing would remember.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from peer.dropped import Dropped
from peer.effects import Effects
from peer.feeds import Feeds
from peer.journal import JournalError
from peer.own_feed import REPORT_KIND, OnRefused
from peer.storm import StormGate
from protocols.cid import CID
from protocols.limits import STORM_COUNT_INTERVAL_S
from protocols.record import Link, Record, block
from protocols.report import Report

log = logging.getLogger(__name__)

NONCE_BYTES = 8
DROPPED_KIND = "reports.dropped"
"""Its attribute ``total`` says how many reports this peer dropped since its state began: of several
such records, the highest holds."""
_UNRECORDABLE_KIND = "unrecordable"


@dataclass(slots=True)
class Recorder:
    """Writes records of this peer's own feed; ``environment`` and ``hardware`` go into each.

    Reports pass a storm gate; while ``run`` runs, those that it holds back are written as counts.
    Reports that the disk did not take are counted, and a record says how many once it takes one.
    """

    feeds: Feeds
    effects: Effects
    environment: CID | None = None
    hardware: CID | None = None
    gate: StormGate = field(default_factory=StormGate)
    dropped: Dropped = field(default_factory=Dropped)
    _writing_block: trio.Lock = field(default_factory=trio.Lock)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the counts of held reports as they fall due, and all of them when cancelled."""
        task_status.started()
        try:
            while True:
                await trio.sleep(STORM_COUNT_INTERVAL_S)
                await self._write_counts(self.gate.due(trio.current_time()))
                await self._tell_dropped()
        finally:
            with trio.CancelScope(shield=True):
                await self._write_counts(self.gate.drain())
                await self._tell_dropped()

    async def activity(  # noqa: PLR0913 - the fields of a record, each by its name
        self,
        kind: str,
        *,
        used: Sequence[Link] = (),
        generated: Sequence[Link] = (),
        informed_by: Sequence[CID] = (),
        start_us: int,
        duration_us: int = 0,
        status: str = "ok",
        attributes: Mapping[str, Any] | None = None,
        refused: OnRefused | None = None,
    ) -> CID:
        """Record something that ran; return its CID once it is on the disk.

        With ``refused`` it returns at once, and the record is on the disk before any that follows;
        ``refused`` is told if it never will be. Raises ``JournalError`` when the disk does not take
        it, and nothing else.
        """
        record = Record(
            author=self.feeds.key.public,
            nonce=self.effects.token(NONCE_BYTES),
            kind=kind,
            used=tuple(used),
            generated=tuple(generated),
            informed_by=tuple(informed_by),
            environment=self.environment,
            hardware=self.hardware,
            start_us=start_us,
            duration_us=duration_us,
            status=status,
            attributes=dict(attributes or {}),
        )
        return await self._append(record, refused)

    async def event(self, kind: str, **attributes: Any) -> CID:
        """Record that something happened now; return its CID once it is on the disk."""
        now_us = self.effects.now_us()
        return await self.activity(kind, start_us=now_us, attributes=attributes)

    async def report(self, report: Report, *, informed_by: Sequence[CID] = ()) -> CID | None:
        """Record an error report; none when the gate holds it back to be counted, or when even
        recording fails, which is logged.
        """
        written = None
        for passed in self.gate.admit(report, trio.current_time()):
            # What else passes is the count of another fault, which made room for this one
            links = informed_by if passed is report else ()
            written = await self._write_report(passed, links)
        return written

    async def _write_counts(self, reports: Sequence[Report]) -> None:
        for report in reports:
            await self._write_report(report, ())

    async def _write_report(self, report: Report, informed_by: Sequence[CID]) -> CID | None:
        try:
            return await self.activity(
                REPORT_KIND,
                informed_by=informed_by,
                start_us=report.time_us,
                status="error",
                attributes=report.to_attributes(),
            )
        except Exception as error:  # noqa: BLE001 - reporting a fault must not become another
            log.warning("error report lost", extra={"reason": repr(error)})
            self.dropped.add(report.count)
            return None

    async def _tell_dropped(self) -> None:
        total = self.dropped.total
        if not self.dropped.untold:
            return
        try:
            await self.event(DROPPED_KIND, total=total)
        except JournalError as error:
            log.warning("dropped reports not told of yet", extra={"code": error.code})
        else:
            self.dropped.told(total)

    async def block(
        self, kind: str, attributes: Mapping[str, Any], *, generated: Sequence[Link] = ()
    ) -> CID:
        """Record content to be linked to by CID (an environment, a machine), once per content."""
        record = block(self.feeds.key.public, kind, attributes, tuple(generated))
        cid = CID.of(record.encode())
        async with self._writing_block:  # the same block may be on its way to the disk right now
            if not self.feeds.holds_block(cid):
                await self.feeds.append(record)
        return cid

    async def _append(self, record: Record, refused: OnRefused | None = None) -> CID:
        try:
            if refused is not None:
                return await self.feeds.append_soon(record, refused)
            return await self.feeds.append(record)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - a record's own fault must not break its caller
            log.warning("record reduced", extra={"kind": record.kind, "reason": repr(error)})
            return await self.feeds.append(self._reduced(record, error))

    def _reduced(self, record: Record, error: Exception) -> Record:
        """Return what can be said of a record that can't be encoded: that it was, and why it is
        not.
        """
        now_us = self.effects.now_us()
        return Record(
            author=record.author,
            nonce=record.nonce,
            kind=_UNRECORDABLE_KIND,
            start_us=now_us,
            status="error",
            attributes={"kind": ascii(record.kind)[:64], "reason": ascii(error)[:512]},
        )
