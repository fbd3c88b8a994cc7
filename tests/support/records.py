"""A recorder and a journal in memory, with the interfaces of the real ones: everything is
durable at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from peer.effects import Effects
from peer.own_feed import OnRefused
from peer.pending import Pending
from protocols.cid import CID
from protocols.journal import Entry
from protocols.keys import SigningKey
from protocols.record import Link, Record
from protocols.report import RECORD_KIND, Report


@dataclass
class MemoryRecorder:
    """Keeps the records that it was given, in order."""

    key: SigningKey
    effects: Effects
    records: list[Record] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    refusing: list[OnRefused] = field(default_factory=list)
    """Who is to be told if the disk refuses what they did not wait for."""

    async def activity(
        self,
        kind: str,
        *,
        used: Iterable[Link] = (),
        generated: Iterable[Link] = (),
        informed_by: Iterable[CID] = (),
        start_us: int,
        duration_us: int,
        status: str = "ok",
        attributes: Mapping[str, Any] | None = None,
        refused: OnRefused | None = None,
    ) -> CID:
        if refused is not None:
            self.refusing.append(refused)
        record = Record(
            author=self.key.public,
            nonce=self.effects.token(8),
            kind=kind,
            used=tuple(used),
            generated=tuple(generated),
            informed_by=tuple(informed_by),
            start_us=start_us,
            duration_us=duration_us,
            status=status,
            attributes=dict(attributes or {}),
        )
        await trio.lowlevel.checkpoint()
        encoded = record.encode()
        self.records.append(Record.decode(encoded))
        return CID.of(encoded)

    async def event(self, kind: str, **attributes: Any) -> CID:
        now_us = self.effects.now_us()
        return await self.activity(kind, start_us=now_us, duration_us=0, attributes=attributes)

    async def report(self, report: Report, *, informed_by: Iterable[CID] = ()) -> CID | None:
        self.reports.append(report)
        return await self.activity(
            RECORD_KIND,
            informed_by=informed_by,
            start_us=report.time_us,
            duration_us=0,
            attributes=report.to_attributes(),
        )

    def of_kind(self, kind: str) -> list[Record]:
        """The records of one kind."""
        return [record for record in self.records if record.kind == kind]


@dataclass
class MemoryJournal:
    """Keeps the entries that it was given."""

    entries: list[tuple[Entry, bytes]] = field(default_factory=list)
    _growing: list[tuple[Entry, Pending]] = field(default_factory=list)

    def append_soon(self, kind: Entry, body: bytes, *, can_wait: bool = False) -> None:
        self.entries.append((kind, body))

    def append_growing(self, kind: Entry, body: Callable[[], bytes]) -> Pending:
        pending = Pending(b"", grow=body)
        self._growing.append((kind, pending))
        return pending

    def join(self, growing: Pending, size_bytes: int) -> None:
        growing.joined_bytes += size_bytes

    def scan(self, start: int = 0) -> Iterator[tuple[int, int, Entry, bytes]]:
        for kind, pending in self._growing:
            assert pending.grow is not None
            self.entries.append((kind, pending.grow()))
            pending.settle(0)
        self._growing = []
        for number, (kind, body) in enumerate(self.entries[start:], start):
            yield number, number + 1, kind, body
