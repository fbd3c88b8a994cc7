"""Checks what this node holds: every byte of its journal, of its own feed and of those of workers,
and has what is gone fetched again from whoever is said to have it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from node.store import Store
from peer.check import Checker, Finding
from peer.feeds import Feeds
from peer.index import Index
from peer.inspection import Inspection, conclude, inspect
from peer.journal import Journal
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.keys import PeerId
from protocols.limits import MAX_SOUGHT

Seek = Callable[[PeerId, Sequence[bytes]], Awaitable[list[Bundle]]]
"""Asks a peer for the bundles of some records, which are kept and returned. Never raises."""


async def seek_nowhere(_peer: PeerId, _digests: Sequence[bytes]) -> list[Bundle]:
    """Stand for other peers where there is no daemon."""
    await trio.lowlevel.checkpoint()
    return []


@dataclass(frozen=True, slots=True)
class Check:
    """One node's check; ``aggregators`` are those that it knows."""

    index: Index[Store]
    journal: Journal
    feeds: Feeds
    aggregators: tuple[PeerId, ...] = ()
    seek: Seek = seek_nowhere

    async def run(self) -> dict[str, Any]:
        """Walk the journal, say what is wrong and who may have it, then ask them: ``fetched`` is
        how many bundles came, which the next check finds whole. A wrong index is made anew.
        """
        inspection = await inspect(self.index, self.journal, self.feeds)
        findings = await self.index.ask(lambda store: self._judged(inspection, store))
        answer = await conclude(inspection, findings, self.index, self.journal, self.feeds)
        if any(finding.code == "index-differs" for finding in findings):
            await self.index.rebuild()
        sought = await self.index.ask(lambda store: _sought(inspection, store))
        return {**answer, "fetched": await self._fetch(findings, sought) if sought else 0}

    def _judged(self, inspection: Inspection, store: Store) -> list[Finding]:
        own = frozenset([self.feeds.key.public])
        checker = Checker(
            inspection.walked,
            inspection.lost,
            self.aggregators,
            signed_to=self.feeds.place,
            whole=own,  # of a worker's feed we hold what our jobs need
            remedy="it is made anew",
        )
        lacking = (body for body in self.feeds.bodies.lacking if body.feed in own)
        return [
            *checker.findings(inspection.rows),
            *checker.absent(lacking),
            *_unknown(inspection, store),
        ]

    async def _fetch(self, findings: Iterable[Finding], sought: Sequence[bytes]) -> int:
        """Ask everybody who may have what is gone; return how many bundles came."""
        holders = dict.fromkeys(peer for each in findings for peer in each.fetch_from)
        return sum([len(await self.seek(PeerId(peer), sought)) for peer in holders])


def _unknown(inspection: Inspection, store: Store) -> Iterator[Finding]:
    """Yield damage in which no record or bundle lay: an acknowledgement, perhaps, or salts."""
    for damage in inspection.walked.damage:
        if not store.remembers(*damage):
            yield Finding(
                "damaged-bytes",
                f"bytes {damage.offset} to {damage.end_offset - 1} of the journal are damaged, and"
                " no record is known to have lain there",
            )


def _sought(inspection: Inspection, store: Store) -> list[bytes]:
    """Return the digests of records whose bundles are to be had again."""
    named = [cid for lost in inspection.lost for cid in store.named_in(lost, MAX_SOUGHT)]
    broken = [signed.header.digests[0] for signed in inspection.walked.broken.values()]
    digests = [*(CID(cid).digest for cid in named), *broken]
    return list(dict.fromkeys(digests))[:MAX_SOUGHT]
