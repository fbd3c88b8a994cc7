"""A walk through all that an aggregator has on its disk, and what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import trio

from aggregator.check import Checker, Finding, Walked, feeds_of, unreadable, walk, without
from aggregator.checkpoints import latest_in
from aggregator.damaged import counted, held_told
from aggregator.healing import heal, is_healed, size_bytes
from aggregator.losses import Losses, Stated, lost_of, lost_told, sought
from aggregator.store import Store
from aggregator.surroundings import Surroundings
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.tables import Lost, Rows
from protocols.journal import Damage

MAX_SHOWN_MISSING: Final = 100
MAX_SHOWN_ABSENT: Final = 100

_walking = trio.CapacityLimiter(1)  # a walk reads the whole journal: one at a time is enough


@dataclass(slots=True)
class Inspection:
    """One walk through the journal as it lies on the disk, against which the index is held. Bundles
    found damaged are held no longer, and asked for again; damage behind which nothing is missing is
    let go of.
    """

    journal: Journal
    feeds: Feeds
    index: Index[Store]
    losses: Losses
    _lost_in: dict[Damage, list[Lost]] = field(default_factory=dict[Damage, list[Lost]])

    async def run(self, around: Surroundings, *, is_loss_accepted: bool) -> dict[str, Any]:
        """Return what is wrong, and who may still have it. What of our own feed was asked for and
        came from nobody, a running daemon states to be lost, and with ``is_loss_accepted`` also
        what somebody who is away may have.
        """
        await self.index.catch_up()
        rows = await self.index.ask(lambda store: store.rows())
        entries, own = self.journal.inspect(rows.mark), self.feeds.key.public
        walked = await trio.to_thread.run_sync(walk, entries, own, limiter=_walking)
        is_news = self._quarantine(walked)
        stated = await lost_of(self.index, self.feeds)
        asked = frozenset(() if is_news else around.asked)
        findings = await self._judged(walked, rows, around, asked, stated)
        if around.is_running and self.feeds.is_signing and not is_news:
            findings = await self.losses.settle(findings, is_accepted=is_loss_accepted)
            stated = await lost_of(self.index, self.feeds)
        counts, absent = await counted(self.index, self.feeds, stated)
        return {
            "ok": not findings,
            "journal_bytes": rows.mark,
            "damaged_bytes": size_bytes(walked.damage),
            "healed_bytes": await heal(self.journal, self.index, self._healed(stated)),
            "tail_cut_bytes": self.journal.tail_cut_bytes,
            "quarantined": self.feeds.quarantined,
            "entries": walked.entries,
            **held_told(counts, absent),
            **lost_told(stated),
            "bodiless": walked.bodiless,
            "feeds": len({feed for feed, _ in walked.chains}),
            "findings": [asdict(finding) for finding in findings],
        }

    def _quarantine(self, walked: Walked) -> bool:
        """Hold no longer what cannot be read; say whether that is news, so that nobody was asked
        for it yet.
        """
        before = self.feeds.quarantined
        self.feeds.quarantine(unreadable(walked))
        return self.feeds.quarantined != before

    async def _judged(
        self,
        walked: Walked,
        rows: Rows,
        around: Surroundings,
        asked: frozenset[str],
        stated: list[Stated],
    ) -> list[Finding]:
        bodies, known = self.feeds.bodies, tuple(around.aggregators)
        unshown, absent = bodies.unshown(), bodies.lacking[:MAX_SHOWN_ABSENT]

        def judge(store: Store) -> list[Finding]:
            self._lost_in.update((each, store.lost(*each)) for each in walked.damage)
            lost = [*self.index.lost, *(each for some in self._lost_in.values() for each in some)]
            checker = Checker(walked, lost, known, self.feeds.gone_elsewhere)
            checker = replace(checker, asked=asked, stated=[Lost(*each[:4]) for each in stated])
            missing = store.missing(MAX_SHOWN_MISSING, bodies.redactions.named())
            shown = store.records(each.cid for each in unshown)
            own = latest_in(store).get(self.feeds.key.public)
            named_by = {row.cid: row for row in store.records(m.needed_by for m in missing)}
            return [
                *checker.findings(rows),
                *checker.vouched(own),
                *checker.absent(absent),
                *checker.unshown(unshown, {row.cid: row for row in shown}),
                *checker.missing(without(missing, absent), named_by, feeds_of(store, missing)),
            ]

        return await self.index.ask(judge)

    def _healed(self, stated: list[Stated]) -> list[Damage]:
        """Return the damage behind which nothing is missing that is not ``stated`` to be lost."""
        settled_at = self.feeds.settled_at
        missed = {each: sought(lost, stated) for each, lost in self._lost_in.items()}
        return [each for each, lost in missed.items() if is_healed(each, lost, settled_at)]
