"""A check of all that an aggregator has on its disk, and of what its mesh has and it has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aggregator.checker import MeshChecker, feeds_of, without
from aggregator.checkpoints import latest_in
from aggregator.damaged import counted, held_told
from aggregator.losses import Losses, Stated, lost_of, lost_told, sought
from aggregator.store import Store
from aggregator.surroundings import Surroundings
from peer.check import Finding
from peer.feeds import Feeds
from peer.index import Index
from peer.inspection import Inspection, conclude, inspect
from peer.journal import Journal
from peer.tables import Lost

MAX_SHOWN_MISSING: Final = 100
MAX_SHOWN_ABSENT: Final = 100


@dataclass(frozen=True, slots=True)
class Audit:
    """Walks the journal as it lies on the disk, and compares the index with it. Bundles found
    damaged are held no longer, and asked for again; damage behind which nothing is missing is let
    go of.
    """

    journal: Journal
    feeds: Feeds
    index: Index[Store]
    losses: Losses

    async def run(self, around: Surroundings, *, is_loss_accepted: bool) -> dict[str, Any]:
        """Return what is wrong, and who may still have it. What of our own feed was asked for and
        came from nobody, a running daemon states to be lost, and with ``is_loss_accepted`` also
        what somebody who is away may have.
        """
        inspection = await inspect(self.index, self.journal, self.feeds)
        stated = await lost_of(self.index, self.feeds)
        findings = await self._judged(inspection, around, stated)
        if around.is_running and self.feeds.is_signing and not inspection.is_news:
            findings = await self.losses.settle(findings, is_accepted=is_loss_accepted)
            stated = await lost_of(self.index, self.feeds)
        missed = {at: sought(lost, stated) for at, lost in inspection.lost_in.items()}
        inspection = replace(inspection, lost_in=missed)
        counts, absent = await counted(self.index, self.feeds, stated)
        return {
            **await conclude(inspection, findings, self.index, self.journal, self.feeds),
            **held_told(counts, absent),
            **lost_told(stated),
        }

    async def _judged(
        self, inspection: Inspection, around: Surroundings, stated: Sequence[Stated]
    ) -> list[Finding]:
        bodies = self.feeds.bodies
        unshown, absent = bodies.unshown(), bodies.lacking[:MAX_SHOWN_ABSENT]
        checker = MeshChecker(
            inspection.walked,
            inspection.lost,
            tuple(around.aggregators),
            self.feeds.gone_elsewhere,
            asked=frozenset(() if inspection.is_news else around.asked),
            stated=[Lost(*each[:4]) for each in stated],
        )

        def judge(store: Store) -> list[Finding]:
            missing = store.missing(MAX_SHOWN_MISSING, bodies.redactions.named())
            shown = store.records(each.cid for each in unshown)
            named_by = {row.cid: row for row in store.records(m.needed_by for m in missing)}
            return [
                *checker.findings(inspection.rows),
                *checker.vouched(latest_in(store).get(self.feeds.key.public)),
                *checker.absent(absent),
                *checker.unshown(unshown, {row.cid: row for row in shown}),
                *checker.missing(without(missing, absent), named_by, feeds_of(store, missing)),
            ]

        return await self.index.ask(judge)
