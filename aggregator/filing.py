"""The filer: exactly one issue for each group that the policy lets through.

No tracker can create an issue and tell us so in one step, so a crash or a lost answer in between
leaves it unknown whether the issue exists. Therefore, always in this order:

1. an intent is durable before the tracker hears of the group;
2. the tracker is asked for the marker, and what it finds is taken as the issue;
3. only if there is none, the issue is created;
4. its number is durable.

Whatever goes wrong leaves an open intent, and the next attempt begins at 2. Only one filer a
tracker may run in a mesh: two would both find nothing at 2. Each tracker has a filer of its own,
with its own intents and numbers, so that one which is away holds up no other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from aggregator.config import Filing
from aggregator.decisions import Filed, Intent, Statement
from aggregator.draft import draft_of, duplicate_of, marker_of, merged_into, umbrella_of
from aggregator.groups import Group
from aggregator.policy import CAPS, DAY_US, Context, Mesh, policy
from aggregator.readback import Ruling, late_duplicates, rulings
from aggregator.trackers import (
    Draft,
    DraftRefusedError,
    Issue,
    IssueGoneError,
    Seen,
    Tracker,
    TrackerError,
    TrackerLaterError,
)
from peer.effects import Effects

log = logging.getLogger(__name__)

UPDATE_INTERVAL_S: Final = 3_600.0  # people unwatch what changes all the time
REFUSED_WAIT_S: Final = 3_600.0  # a refused draft may pass once the group has changed
_UMBRELLA: Final = "0000"  # begins an umbrella's id, which goes on with its day

Record = Callable[[Intent | Filed], Awaitable[None]]
"""Makes a statement durable in the aggregator's own feed; returns after its fsync."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an issue says, as far as this process knows, and since when."""

    draft: Draft | None
    at_s: float


class Filer:
    """Files and updates issues in one tracker, for an aggregator that holds the mesh's filer role.

    ``history`` is every intent and number that was recorded before, in any order.
    """

    def __init__(
        self,
        tracker: Tracker,
        record: Record,
        effects: Effects,
        config: Filing,
        history: Iterable[Statement] = (),
    ) -> None:
        self._tracker = tracker
        self._record = record
        self._effects = effects
        self._config = config
        self._lock = trio.Lock()
        self._resume_at_s = -math.inf
        statements = [each for each in history if getattr(each, "tracker", None) == tracker.name]
        filed = [each for each in statements if isinstance(each, Filed)]
        filed.sort(key=lambda each: -each.number)  # of two numbers the lower one goes on
        self._filed = {each.group: each for each in filed}
        # A create that was under way when the last process died may still take effect.
        self._unsettled: dict[str, float | None] = {
            each.group: None
            for each in statements
            if isinstance(each, Intent) and each.group not in self._filed
        }
        self._created_us = [
            each.time_us for name, each in self._filed.items() if not _is_umbrella(name)
        ]
        self._known_since_us: dict[str, int] = {}
        self._shown: dict[str, _Shown] = {}

    @property
    def tracker(self) -> str:
        """The name of the tracker that it files in."""
        return self._tracker.name

    @property
    def open_intents(self) -> frozenset[str]:
        """Groups of which it is not known whether they have an issue."""
        return frozenset(self._unsettled)

    async def sweep(self, groups: Sequence[Group], mesh: Mesh) -> list[Filed]:
        """Settle open intents, file what the policy lets through, update what changed.

        Returns the issues that became known. A tracker that fails ends the sweep with a log line;
        the next one goes on. Safe to cancel at any moment, and to call from several tasks.
        """
        known = dict(self._filed)
        async with self._lock:
            if trio.current_time() < self._resume_at_s:
                return []
            try:
                await self._reconcile()
                await self._file_all(groups, mesh)
                await self._update_all(groups)
            except TrackerError as error:
                self._rest(error)
        return [each for name, each in self._filed.items() if name not in known]

    async def read_back(self, groups: Sequence[Group]) -> list[Ruling]:
        """Return what people decided by closing and opening issues and no record says yet; close
        issues that appeared beside the one that was filed.

        Raises ``TrackerError``. It does not record the decisions: that is up to the caller.
        """
        async with self._lock:
            wait_s = self._resume_at_s - trio.current_time()
            if wait_s > 0:
                raise TrackerLaterError(
                    f"{self.tracker} is to be asked again in {wait_s:.0f} s", retry_after_s=wait_s
                )
            try:
                seen = await self._tracker.survey()
                for late, filed in late_duplicates(seen, self._filed.values()):
                    await self._settle_duplicate(late, filed)
            except TrackerError as error:
                self._rest(error)
                raise
        return rulings(seen, groups, self.tracker)

    async def _settle_duplicate(self, late: Seen, filed: Filed) -> None:
        """Let the lower number go on, so that two filers who meet never close both."""
        if late.issue.number < filed.number:
            await self._keep(filed.group, late.issue)
            return
        await self._tracker.update(late.issue.number, duplicate_of(filed))
        log.info("duplicate closed", extra={"number": late.issue.number})

    def _rest(self, error: TrackerError) -> None:
        """Leave the tracker alone for as long as its error says."""
        self._resume_at_s = trio.current_time() + error.retry_after_s
        extra = {"tracker": self.tracker, "code": error.code, "reason": error.message}
        log.warning("tracker failed", extra={**extra, "retry_in_s": round(error.retry_after_s)})

    # Exactly once

    async def _reconcile(self) -> None:
        """Look for the issue of every open intent: its group may not be there to ask again."""
        for group_id in list(self._unsettled):
            if self._is_settled(group_id):
                await self._adopt(group_id)

    def _is_settled(self, group_id: str) -> bool:
        """Say whether a create of unknown outcome has had the time to take effect."""
        if self._unsettled.get(group_id, 0.0) is None:
            self._unsettled[group_id] = trio.current_time() + self._tracker.settle_s
        until_s = self._unsettled.get(group_id)
        return until_s is None or trio.current_time() >= until_s

    async def _adopt(self, group_id: str) -> bool:
        """Take what carries the group's marker as its issue; False if nothing does."""
        found = await self._tracker.find(marker_of(group_id))
        if found:
            await self._keep(group_id, found[0])
        return bool(found)

    async def _file(self, group_id: str, draft: Draft) -> None:
        if group_id not in self._unsettled:
            await self._record(
                Intent(group=group_id, tracker=self._tracker.name, time_us=self._effects.now_us())
            )
            self._unsettled[group_id] = trio.current_time()
        if not self._is_settled(group_id) or await self._adopt(group_id):
            return
        try:
            issue = await self._create(group_id, draft)
        except DraftRefusedError as error:
            log.warning("issue refused", extra={"group": group_id, "reason": error.message})
            return
        await self._keep(group_id, issue)
        self._shown[group_id] = _Shown(draft, trio.current_time())

    async def _create(self, group_id: str, draft: Draft) -> Issue:
        self._unsettled[group_id] = None  # a call that is cancelled may have any outcome
        wait_s = self._tracker.settle_s  # and so may one that fails
        try:
            return await self._tracker.create(draft)
        except DraftRefusedError:
            wait_s = REFUSED_WAIT_S
            raise
        except TrackerLaterError:
            wait_s = 0.0
            raise
        finally:
            self._unsettled[group_id] = trio.current_time() + wait_s

    async def _keep(self, group_id: str, issue: Issue) -> None:
        filed = Filed(
            group=group_id,
            tracker=self._tracker.name,
            number=issue.number,
            where=issue.where,
            time_us=self._effects.now_us(),
        )
        await self._record(filed)
        self._filed[group_id] = filed
        self._unsettled.pop(group_id, None)
        if not _is_umbrella(group_id):
            self._created_us.append(filed.time_us)
        extra = {"group": group_id, "tracker": self.tracker, "number": issue.number}
        log.info("issue known", extra=extra)

    # Which groups

    async def _file_all(self, groups: Sequence[Group], mesh: Mesh) -> None:
        """File the oldest first, and one umbrella issue a day for those that the caps hold back."""
        held_back: list[Group] = []
        for group in sorted(groups, key=lambda each: (each.first_seen_us, each.id)):
            if group.id in self._filed:
                continue
            verdict = policy(group, self._context(group, mesh), self._config)
            if verdict.action == "file":
                await self._file(group.id, draft_of(group))
            elif verdict.reason in CAPS:
                held_back.append(group)
        if held_back:
            await self._show_umbrella(held_back)

    def _context(self, group: Group, mesh: Mesh) -> Context:
        now_us = self._effects.now_us()
        self._created_us = [each for each in self._created_us if each > now_us - DAY_US]
        known_since_us = self._known_since_us.setdefault(group.id, now_us)
        return Context(mesh, now_us, known_since_us, tuple(self._created_us), self.tracker)

    async def _show_umbrella(self, held_back: list[Group]) -> None:
        day = datetime.fromtimestamp(self._effects.now_us() / 1e6, UTC)
        umbrella_id = f"{_UMBRELLA}{day:%Y%m%d}"
        draft = umbrella_of(umbrella_id, held_back)
        if umbrella_id in self._filed:
            await self._show(umbrella_id, self._filed[umbrella_id].number, draft)
        else:
            await self._file(umbrella_id, draft)

    # Keeping issues true

    async def _update_all(self, groups: Sequence[Group]) -> None:
        for group in groups:
            filed = group.filed_in(self.tracker)
            if filed is None:
                continue
            await self._show(filed.group, filed.number, draft_of(group, filed))
            for duplicate in group.duplicates_in(self.tracker):
                draft = merged_into(group, filed, duplicate)
                await self._show(duplicate.group, duplicate.number, draft)

    async def _show(self, group_id: str, number: int, draft: Draft) -> None:
        """Make the issue say the draft: at once if it opens or closes, else at most hourly."""
        now_s = trio.current_time()
        shown = self._shown.setdefault(group_id, _Shown(None, now_s))
        # What an issue says is not known to a new process: it looks, once.
        is_turn = shown.draft is None or shown.draft.is_open != draft.is_open
        if shown.draft == draft or not (is_turn or now_s - shown.at_s >= UPDATE_INTERVAL_S):
            return
        try:
            await self._tracker.update(number, draft)
        except (IssueGoneError, DraftRefusedError) as error:
            extra = {"group": group_id, "number": number, "reason": error.message}
            log.info("issue not updated", extra=extra)
        self._shown[group_id] = _Shown(draft, now_s)


def _is_umbrella(group_id: str) -> bool:
    return group_id.startswith(_UMBRELLA) and group_id.isdigit()
