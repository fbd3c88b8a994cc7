"""What made an entity whose maker was redacted.

Of a redacted record only a header is left, which says who signed it, and not what it made. But
whoever took an output used it and was informed by the run that made it: what is redacted of that is
the maker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aggregator.lineage import attributes_of
from aggregator.store import Store
from peer.exporting import redaction_told
from peer.rows import BodilessRow, RecordRow
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.tombstone import Redactions


class Maker(NamedTuple):
    """A redacted record that made an entity, and where its header stands."""

    entity: bytes
    cid: bytes
    told: dict[str, Any]
    """Its JSON form."""

    def verified(self, is_shown: bool) -> dict[str, Any]:
        """Return the JSON form with whether the signed bytes show that it was redacted."""
        return {**self.told, "redacted": {**self.told["redacted"], "is_verified": is_shown}}


Find = Callable[[Store], list[Maker]]


def find_makers(entities: Iterable[bytes], redactions: Redactions) -> Find:
    """Return the question who of those that were redacted made these entities."""
    asked = list(entities)

    def find(store: Store) -> list[Maker]:
        taken = store.informers(asked) if asked and len(redactions) else []
        named = {record for _, _, record in taken if redactions.of(CID(record)) is not None}
        places = {row.cid: row for row in store.bodiless(named)} if named else {}
        takers = {row.cid: row for row in store.records({taker for _, taker, _ in taken})}
        makers = [
            _maker(entity, places[record], takers[taker], redactions)
            for entity, taker, record in taken
            if record in places
        ]
        return list({each[:2]: each for each in makers if each is not None}.values())

    return find


def _maker(
    entity: bytes, row: BodilessRow, taker: RecordRow, redactions: Redactions
) -> Maker | None:
    """Return a redacted record as the maker of what ``taker`` took; none if another peer's record
    is: what the submitter itself did before is redacted too.
    """
    redaction, peer = redactions.of(CID(row.cid), row.feed), peer_id_of(row.feed)
    if redaction is None or peer != attributes_of(taker).get("worker", peer):
        return None
    told = {
        "of": str(CID(entity)),
        "cid": str(CID(row.cid)),
        "peer": peer,
        "epoch": row.epoch,
        "sequence": row.sequence,
        "redacted": redaction_told(redaction, row.feed),
    }
    return Maker(entity, row.cid, told)
