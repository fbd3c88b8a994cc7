"""From records to groups: follows the index and sums reports up.

What it shows is a function of the records alone, so every aggregator of a mesh shows the same
groups with the same issue numbers, whoever filed them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import trio

from aggregator.decisions import (
    DECISION_KIND,
    FILED_KIND,
    INTENT_KIND,
    Decided,
    Decision,
    Filed,
    Statement,
    from_attributes,
)
from aggregator.faults import Faults, Occurrence
from aggregator.groups import Group, group_faults
from aggregator.store import Store
from peer.index import Index
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.keys import peer_id_of
from protocols.report import RECORD_KIND, Report
from protocols.roster import CERTIFICATE_KIND, Roster

log = logging.getLogger(__name__)

KINDS: Final = (RECORD_KIND, DECISION_KIND, INTENT_KIND, FILED_KIND, CERTIFICATE_KIND)


@dataclass(frozen=True, slots=True)
class Stated:
    """A statement, who made it, and the record that holds it."""

    feed: bytes
    kind: str
    statement: Statement
    cid: CID


@dataclass(slots=True)
class Findings:
    """What the records say about faults: the same for the same set of records, in any order."""

    roster: Roster
    faults: Faults = field(default_factory=Faults)
    stated: list[Stated] = field(default_factory=list[Stated])
    """Every statement, also of feeds that have not shown the role that it takes."""
    malformed: int = 0
    """Records of our kinds that are not what their kind says."""
    seen: set[bytes] = field(default_factory=set[bytes])

    def add(self, row: RecordRow) -> None:
        """Take in one record; a repeated one changes nothing."""
        if row.cid in self.seen:
            return
        self.seen.add(row.cid)
        try:
            self._take(row)
        except RemoteProtocolError as error:
            self.malformed += 1
            log.info("record ignored", extra={"cid": CID(row.cid), "reason": error.message})

    def _take(self, row: RecordRow) -> None:
        attributes = dagcbor.decode_verified(row.attributes)
        if row.kind == RECORD_KIND:
            report = Report.from_attributes(attributes)
            self.faults.add(Occurrence(report, peer_id_of(row.feed), CID(row.cid)))
            return
        if row.kind == CERTIFICATE_KIND:
            self.roster.add(row.feed, attributes)
            return
        statement = from_attributes(row.kind, attributes)
        self.stated.append(Stated(row.feed, row.kind, statement, CID(row.cid)))

    @property
    def _counted(self) -> list[Stated]:
        return [each for each in self.stated if self.roster.may_state(each.feed, each.kind)]

    @property
    def unheard(self) -> int:
        """How many statements do not count, for lack of a role."""
        return len(self.stated) - len(self._counted)

    @property
    def decided(self) -> list[Decided]:
        """What was decided about groups by those who may."""
        return [
            Decided(each.statement, each.cid)
            for each in self._counted
            if isinstance(each.statement, Decision)
        ]

    @property
    def statements(self) -> list[Statement]:
        """Intents and numbers of issues, whichever aggregator recorded them."""
        found = [each.statement for each in self._counted]
        return [each for each in found if not isinstance(each, Decision)]

    @property
    def filed(self) -> list[Filed]:
        """The issues that exist, as far as records tell."""
        return [each for each in self.statements if isinstance(each, Filed)]

    def groups(self) -> list[Group]:
        """Return the groups, the one seen last first."""
        return group_faults(self.faults, self.decided, self.filed)


class Intake:
    """The groups of one aggregator, following its index. ``take_in`` alone is enough to read."""

    def __init__(self, index: Index[Store], mesh: bytes) -> None:
        self._index = index
        self._mark = 0
        self._mesh = mesh
        self._turn = trio.Lock()
        self.findings = Findings(Roster(mesh))
        self.groups: list[Group] = []
        self.changed = trio.Event()
        """Set when the groups have changed; then another one stands in its place."""

    async def start_over(self) -> None:
        """Make findings and groups anew: records that they were made from have been erased."""
        async with self._turn:
            self._mark = 0
            await self._take_in(Findings(Roster(self._mesh)))

    async def take_in(self) -> None:
        """Bring findings and groups up to where the index stands."""
        async with self._turn:
            await self._take_in(self.findings)

    async def _take_in(self, findings: Findings) -> None:
        since, self._mark = self._mark, self._index.mark
        rows = await self._index.ask(lambda store: store.records_since(since, KINDS))
        for number, row in enumerate(rows):
            findings.add(row)
            if number % 64 == 63:  # a report costs 0.1 ms; others want the loop meanwhile
                await trio.lowlevel.checkpoint()
        self.findings = findings
        if rows or since == 0:
            self.groups = self.findings.groups()
            self.changed.set()
            self.changed = trio.Event()

    async def catch_up(self) -> None:
        """Take in everything that was durable when this was called."""
        await self._index.catch_up()
        await self.take_in()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the index until cancelled."""
        await self.take_in()
        task_status.started()
        while True:
            await self._index.wait_past(self._mark)
            await self.take_in()
