"""What an aggregator's check says beyond what a peer's own journal shows (``peer.check``): what
records name and did not arrive, and what a checkpoint of ours vouched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aggregator.checkpoints import Vouched, lost_since
from aggregator.explain import moment
from aggregator.store import MissingRow, Store
from peer.absences import LackingBody
from peer.check import Checker, Finding
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import is_peer_id, peer_id_of
from protocols.record import INFORMED_BY


@dataclass(slots=True)
class MeshChecker(Checker):
    """Adds the mesh's part to the findings of a walk."""

    def missing(
        self,
        rows: Iterable[MissingRow],
        named_by: Mapping[bytes, RecordRow],
        feeds: Mapping[bytes, list[bytes]],
    ) -> Iterator[Finding]:
        """Yield the records that others name and that are not here; ``feeds`` are those of which a
        header here names one: any of them may have it.
        """
        for row in rows:
            child = named_by[row.needed_by]
            authors = [peer_id_of(feed) for feed in feeds.get(row.cid, ())]
            authors = authors or [_author_of(row, child)]
            holders = (peer for author in authors for peer in self._holders(author))
            yield Finding(
                "missing",
                f"{row.what} {CID(row.cid)} is not here, and {CID(row.needed_by)} names it",
                cid=str(CID(row.cid)),
                fetch_from=list(dict.fromkeys(holders)),
            )

    def vouched(self, vouched: Vouched | None) -> Iterator[Finding]:
        """Yield what our latest checkpoint vouched for and the journal has no longer."""
        if vouched is None:
            return
        if vouched.heads is None:
            message = f"the heads of our checkpoint {vouched.cid} are not all here"
            yield Finding("checkpoint-unreadable", message, cid=str(vouched.cid))
        for head in lost_since(vouched, self.walked.chains):
            place = (head.feed, head.epoch, head.first_sequence, head.next_sequence)
            what = f"are not all here, and our checkpoint of {moment(vouched.at_us)} vouches for"
            yield self._range("behind-checkpoint", f"{what} them", *place)


def without(missing: Iterable[MissingRow], absent: Iterable[LackingBody]) -> list[MissingRow]:
    """Return what is missing but for what ``Checker.absent`` tells of."""
    told = {body.cid for body in absent}
    return [row for row in missing if row.cid not in told]


def feeds_of(store: Store, missing: Iterable[MissingRow]) -> dict[bytes, list[bytes]]:
    """Return for missing records of which a header is here whose feeds have one."""
    feeds: dict[bytes, list[bytes]] = {}
    for row in store.bodiless([each.cid for each in missing]):
        named = feeds.setdefault(row.cid, [])
        if row.feed not in named:
            named.append(row.feed)
    return feeds


def _author_of(row: MissingRow, child: RecordRow) -> str:
    """Return whose feed a missing record belongs to, as far as the one that names it tells."""
    if row.what == INFORMED_BY:
        worker = dagcbor.decode_verified(child.attributes).get("worker")
        if isinstance(worker, str) and is_peer_id(worker):
            return worker
    return peer_id_of(child.feed)
