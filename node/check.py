"""Checks what this node holds: every byte of its journal, of its own feed and of those of workers,
and has what is gone fetched again from whoever is said to have it.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.store import Store
from peer.absences import LackingBody
from peer.check import Checker, Finding
from peer.feeds import Feeds
from peer.index import MAX_NAMED_LOST, Index
from peer.inspection import Inspection, conclude, inspect
from peer.journal import Journal
from peer.tables import Lost
from protocols.cid import CID
from protocols.feed import Bundle
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_SOUGHT, SEEK_SPACING_S

MAX_SHOWN_ABSENT: Final = 100  # each is a finding, and the next check tells of others

Seek = Callable[[PeerId, Sequence[bytes]], Awaitable[list[Bundle] | None]]
"""Asks a peer for the bundles of some records, which are kept and returned; none if it does not
answer. Never raises.
"""


async def seek_nowhere(_peer: PeerId, _digests: Sequence[bytes]) -> None:
    """Stand for other peers where there is no daemon."""
    await trio.lowlevel.checkpoint()


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
        own = self.feeds.key.public
        # read here: bundles that come change it, and the index answers in another thread
        absent = [body for body in self.feeds.bodies.lacking if body.feed == own][:MAX_SHOWN_ABSENT]
        findings = await self.index.ask(lambda store: self._judged(inspection, absent, store))
        answer = await conclude(inspection, findings, self.index, self.journal, self.feeds)
        if any(finding.code == "index-differs" for finding in findings):
            await self.index.rebuild()
        named = {CID(body.cid).digest: body.feed for body in absent}
        cut_off = self.index.lost_named
        named |= await self.index.ask(lambda store: _named(inspection, cut_off, store))
        return {**answer, "fetched": await self._fetch(findings, named)}

    def _judged(
        self, inspection: Inspection, absent: Sequence[LackingBody], store: Store
    ) -> list[Finding]:
        own = frozenset([self.feeds.key.public])
        checker = Checker(
            inspection.walked,
            inspection.lost,
            self.aggregators,
            signed_to=self.feeds.place,
            whole=own,  # of a worker's feed we hold what our jobs need
            remedy="it is made anew",
        )
        return [
            *checker.findings(inspection.rows),
            *checker.absent(absent),
            *_unknown(inspection, store),
        ]

    async def _fetch(self, findings: Iterable[Finding], named: Mapping[bytes, bytes]) -> int:
        """Ask everybody for what of it they may have, in as many questions as that takes; return
        how many bundles came. ``named`` are digests, and in whose feed each stood.
        """
        feeds_of: dict[str, set[str | None]] = {}
        for each in findings:
            for holder in each.fetch_from:
                feeds_of.setdefault(holder, set()).add(each.feed)
        came: set[bytes] = set()
        count = 0
        for holder, feeds in feeds_of.items():
            wanted = [
                digest
                for digest, feed in named.items()
                if peer_id_of(feed) in feeds and digest not in came
            ]
            found = await self._ask(PeerId(holder), wanted)
            came.update(digest for bundle in found for digest in bundle.header.digests)
            count += len(found)
        return count

    async def _ask(self, holder: PeerId, wanted: Sequence[bytes]) -> list[Bundle]:
        """Return what a peer has; who does not answer is asked no more in this check."""
        came: list[Bundle] = []
        for start in range(0, len(wanted), MAX_SOUGHT):
            if start:
                await trio.sleep(SEEK_SPACING_S)  # it refuses who asks sooner
            found = await self.seek(holder, wanted[start : start + MAX_SOUGHT])
            if found is None:
                break
            came += found
        return came


def _unknown(inspection: Inspection, store: Store) -> Iterator[Finding]:
    """Yield damage in which no record or bundle lay: an acknowledgement, perhaps, or salts."""
    for damage in inspection.walked.damage:
        if not store.remembers(*damage):
            yield Finding(
                "damaged-bytes",
                f"bytes {damage.offset} to {damage.end_offset - 1} of the journal are damaged, and"
                " no record is known to have lain there",
            )


def _named(
    inspection: Inspection, cut_off: Sequence[tuple[Lost, CID]], store: Store
) -> dict[bytes, bytes]:
    """Return the digests of records whose bundles are to be had again, with their feeds; of what
    was ``cut_off``, of that which did not come again.
    """
    damaged = [lost for several in inspection.lost_in.values() for lost in several]
    named = {
        CID(cid).digest: lost.feed
        for lost in damaged
        for cid in store.named_in(lost, MAX_NAMED_LOST)
    }
    broken = (signed.header for signed in inspection.walked.broken.values())
    named |= {header.digests[0]: header.feed for header in broken}
    here = {CID(row.cid) for row in store.records(cid for _, cid in cut_off)}
    return named | {cid.digest: lost.feed for lost, cid in cut_off if cid not in here}
