"""What made an entity whose maker was redacted.

Of a redacted record only a header is left, which says who signed it, and not what it made. But
whoever took an output says which run of which worker made it. That is the taker's word, so each
maker is told with who says so; anybody may sign a header that names a record, so only one that the
named worker signed tells where it stands.
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
from protocols.taking import worker_of
from protocols.tombstone import Redaction, Redactions


class Maker(NamedTuple):
    """A redacted record that is said to have made an entity, and where its header stands."""

    entity: bytes
    cid: bytes
    redaction: Redaction
    told: dict[str, Any]
    """Its JSON form; ``told_by`` are those who say so."""

    def verified(self, is_shown: bool) -> dict[str, Any]:
        """Return the JSON form with whether the signed bytes show that it was redacted."""
        return {**self.told, "redacted": {**self.told["redacted"], "is_verified": is_shown}}


Find = Callable[[Store], list[Maker]]


def find_makers(entities: Iterable[bytes], redactions: Redactions) -> Find:
    """Return the question who of those that were redacted made these entities."""
    asked = list(entities)

    def find(store: Store) -> list[Maker]:
        takings = store.takings(asked, redactions.named()) if asked and len(redactions) else []
        if not takings:
            return []
        takers = {row.cid: row for row in store.records({each.taker for each in takings})}
        places: dict[tuple[bytes, str], BodilessRow] = {}
        for row in store.bodiless({each.run for each in takings}):
            places.setdefault((row.cid, peer_id_of(row.feed)), row)
        makers: dict[tuple[bytes, bytes, bytes], Maker] = {}
        for entity, run, taker in takings:
            place = places.get((run, _worker(takers[taker])))
            redaction = redactions.of(CID(run), place.feed) if place is not None else None
            if place is None or redaction is None:
                continue
            key = (entity, run, place.feed)
            if key not in makers:
                makers[key] = _maker(entity, place, redaction)
            makers[key].told["told_by"].append(_taker(takers[taker]))
        return list(makers.values())

    return find


def _worker(taker: RecordRow) -> str:
    return worker_of(taker.kind, attributes_of(taker)) or ""


def _taker(row: RecordRow) -> dict[str, str]:
    return {"cid": str(CID(row.cid)), "peer": peer_id_of(row.feed)}


def _maker(entity: bytes, place: BodilessRow, redaction: Redaction) -> Maker:
    told: dict[str, Any] = {
        "of": str(CID(entity)),
        "cid": str(CID(place.cid)),
        "peer": peer_id_of(place.feed),
        "epoch": place.epoch,
        "sequence": place.sequence,
        "told_by": [],
        "redacted": redaction_told(redaction, [place.feed]),
    }
    return Maker(entity, place.cid, redaction, told)
