"""What an aggregator's check says beyond what a peer's own journal shows (``peer.check``): what
records name and did not arrive, and what a checkpoint of ours vouched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aggregator.checkpoints import Vouched, lost_since
from aggregator.explain import moment
from aggregator.store import MissingRow
from peer.check import Checker, Finding
from peer.rows import RecordRow
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import is_peer_id, peer_id_of
from protocols.record import INFORMED_BY


@dataclass(frozen=True, slots=True)
class MeshChecker(Checker):
    """Adds the mesh's part to the findings of a walk."""

    def missing(
        self, rows: Iterable[MissingRow], named_by: Mapping[bytes, RecordRow]
    ) -> Iterator[Finding]:
        """Yield the records that others name and that are not here."""
        for row in rows:
            child = named_by[row.needed_by]
            author = _author_of(row, child)
            yield Finding(
                "missing",
                f"{row.what} {CID(row.cid)} is not here, and {CID(row.needed_by)} names it",
                cid=str(CID(row.cid)),
                fetch_from=self._holders(author),
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


def _author_of(row: MissingRow, child: RecordRow) -> str:
    """Return whose feed a missing record belongs to, as far as the one that names it tells."""
    if row.what == INFORMED_BY:
        worker = dagcbor.decode_verified(child.attributes).get("worker")
        if isinstance(worker, str) and is_peer_id(worker):
            return worker
    return peer_id_of(child.feed)
