"""A check of all that an aggregator has on its disk, and of what its mesh has and it has not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from aggregator.checker import MeshChecker, feeds_of, without
from aggregator.checkpoints import latest_in
from aggregator.damaged import counted, held_told
from aggregator.losses import Losses, Stated, lost_told, sought
from aggregator.store import Store
from aggregator.surroundings import Surroundings
from peer.check import Finding
from peer.feeds import Feeds
from peer.index import Index
from peer.inspection import Inspection, conclude, inspect
from peer.journal import Journal
from protocols.errors import CoveyError
from protocols.keys import peer_id_of

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
        """Return what is wrong, and who may still have it. With ``is_loss_accepted`` a running
        daemon states that what of its own feed is gone is lost, once whoever is up was asked for
        it; otherwise nothing is signed.
        """
        if is_loss_accepted and not self.feeds.is_signing:
            raise CoveyError(
                "another machine runs with the same identity, so this one signs nothing",
                code="duplicate-instance",
                hint="stop one of the two, then start this one again",
            )
        async with self.losses.turn:
            return await self._run(around, is_loss_accepted=is_loss_accepted)

    async def _run(self, around: Surroundings, *, is_loss_accepted: bool) -> dict[str, Any]:
        inspection = await inspect(self.index, self.journal, self.feeds)
        stated = await self.losses.known()
        findings = await self._judged(inspection, around, stated)
        if not is_loss_accepted:
            findings = await self.losses.explain(findings)
        else:
            broken = [signed.header for signed in inspection.walked.broken.values()]
            up = None if self._is_news(around) else frozenset(around.connected)
            findings = await self.losses.give_up(findings, broken, up)
            stated = await self.losses.known()
        return await self._concluded(inspection, findings, stated)

    def _is_news(self, around: Surroundings) -> bool:
        """Say whether bundles turned out to be damaged since everyone was asked."""
        return around.asked_at != self.feeds.quarantined

    async def _concluded(
        self, inspection: Inspection, findings: Iterable[Finding], stated: Stated
    ) -> dict[str, Any]:
        own = self.feeds.key.public
        missed = {at: sought(lost, stated, own) for at, lost in inspection.lost_in.items()}
        inspection = replace(inspection, lost_in=missed)
        counts, absent = await counted(self.index, self.feeds, stated)
        return {
            **await conclude(inspection, findings, self.index, self.journal, self.feeds),
            **held_told(counts, absent),
            **lost_told(stated),
        }

    async def _judged(
        self, inspection: Inspection, around: Surroundings, stated: Stated
    ) -> list[Finding]:
        bodies = self.feeds.bodies
        unshown, absent = bodies.unshown(), bodies.lacking[:MAX_SHOWN_ABSENT]
        checker = MeshChecker(
            inspection.walked,
            inspection.lost,
            (*around.aggregators, *map(peer_id_of, self.losses.aggregators)),
            self.feeds.gone_elsewhere,
            asked=frozenset(() if self._is_news(around) else around.asked),
            stated=stated.ranges,
            signed_to=self.feeds.place,
        )
        known = [*bodies.redactions.named(), *stated.records]

        def judge(store: Store) -> list[Finding]:
            missing = store.missing(MAX_SHOWN_MISSING, known)
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
