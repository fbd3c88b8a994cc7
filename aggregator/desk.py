"""The desk: files the groups of an intake in every tracker, and reads back what people do there.

Only the aggregator whose certificate has the filer role has anything to do: it writes to its
trackers, and what it did and read to its own feed. A task a tracker, so that a slow one delays
neither the others nor what this aggregator shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from aggregator.config import Filing
from aggregator.decisions import Decision, Statement, kind_of, next_revision, to_attributes
from aggregator.filing import Filer
from aggregator.intake import Intake
from aggregator.policy import Mesh
from aggregator.readback import Ruling
from aggregator.trackers import Tracker, TrackerError
from peer.identity import Identity
from peer.journal import JournalFullError
from peer.recorder import Recorder
from peer.showing import show_certificate
from protocols.errors import CoveyError
from protocols.membership import FILER

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 10.0  # a group may come of age, or a tracker be back, with no new record
READ_BACK_INTERVAL_S: Final = 300.0  # a request a hundred issues; people do not wait for it


class Desk:
    """The filers of one aggregator."""

    def __init__(
        self,
        intake: Intake,
        identity: Identity,
        recorder: Recorder,
        config: Filing,
        mesh: Callable[[], Mesh],
    ) -> None:
        self._intake = intake
        self._identity = identity
        self._recorder = recorder
        self._config = config
        self._mesh = mesh
        self._filers: list[Filer] = []

    async def run(
        self,
        trackers: Sequence[Tracker],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """File and read back until cancelled; the intake has taken in what is there before."""
        is_filer = FILER in self._identity.member.certificate.roles
        self._filers = [self._filer(tracker) for tracker in trackers if is_filer]
        async with trio.open_nursery() as nursery:
            for filer in self._filers:
                nursery.start_soon(self._file, filer)
            task_status.started()
            await trio.sleep_forever()

    async def sync(self) -> dict[str, Any]:
        """Read every tracker back now, and return the decisions that it gave.

        Raises ``TrackerError`` of the first tracker that fails, and ``CoveyError`` where there is
        nothing to read back.
        """
        if not self._recorder.feeds.is_signing:
            raise CoveyError(
                "another aggregator runs with the same identity, so this one files nothing",
                code="duplicate-instance",
                hint="stop one of the two, then start this one again",
            )
        if not self._filers:
            raise CoveyError(
                "this aggregator does not file issues",
                code="not-the-filer",
                hint="ask the one that `covey-aggregator status` names as filer",
            )
        decided = [each for filer in self._filers for each in await self._read_back(filer)]
        return {
            "trackers": [filer.tracker for filer in self._filers],
            "decisions": [
                {"action": each.action, "group": each.group.id, "issue": each.issue}
                for each in decided
            ],
        }

    def _filer(self, tracker: Tracker) -> Filer:
        effects, history = self._recorder.effects, self._intake.findings.statements
        return Filer(tracker, self._record, effects, self._config, history)

    async def _file(self, filer: Filer) -> None:
        read_back_at_s = trio.current_time()
        while True:
            changed = self._intake.changed
            if not self._recorder.feeds.is_signing:
                await trio.sleep_forever()  # another instance of our key lives: it would file, too
            try:
                if trio.current_time() >= read_back_at_s:
                    read_back_at_s = trio.current_time() + READ_BACK_INTERVAL_S
                    await self._read_back(filer)
                await filer.sweep(self._intake.groups, self._mesh())
            except TrackerError:
                pass  # the filer has told it, and rests
            except JournalFullError as error:
                log.warning("filing waits for the disk", extra={"reason": error.message})
            with trio.move_on_after(SWEEP_INTERVAL_S):
                await changed.wait()

    async def _read_back(self, filer: Filer) -> list[Ruling]:
        rulings = await filer.read_back(self._intake.groups)
        for each in rulings:
            await self._record(self._decision(each))
            extra = {"group": each.group.id, "issue": each.issue, "action": each.action}
            log.info("decision read", extra=extra)
        if rulings:
            await self._intake.catch_up()
        return rulings

    def _decision(self, ruling: Ruling) -> Decision:
        return Decision(
            action=ruling.action,
            group=ruling.group.id,
            releases=ruling.group.releases if ruling.action == "resolve" else (),
            revision=next_revision(self._intake.findings.decided),
            time_us=ruling.closed_us or self._recorder.effects.now_us(),
            source=ruling.closing,
        )

    async def _record(self, statement: Statement) -> None:
        await show_certificate(self._recorder, self._identity.member)  # or it would not count
        await self._recorder.activity(
            kind_of(statement), start_us=statement.time_us, attributes=to_attributes(statement)
        )
