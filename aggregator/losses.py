"""What of feeds is lost for good, as their own authors state, so that nobody looks for it for ever.

An aggregator states so itself, in its own feed, of bundles of its own that its disk has damaged and
that nobody who may have them could give back. Such a statement is a record like any other: it is
durable, signed, and spreads to whoever else misses the range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from aggregator.decisions import DECISION_KIND
from aggregator.explain import moment
from aggregator.store import Store
from peer.check import Finding, beyond
from peer.feeds import Feeds
from peer.index import Index
from peer.recorder import Recorder
from peer.tables import Lost
from protocols import dagcbor
from protocols.chain import Chain, Range, merge
from protocols.errors import RemoteProtocolError
from protocols.keys import peer_id_of
from protocols.loss import LOSS_KIND, Loss
from protocols.tombstone import TOMBSTONE_KIND

FeedEpoch = tuple[bytes, int]

MAX_TOLD: Final = 100
_SOUGHT: Final = ("damaged", "hole", "behind-ack")
"""Findings about a range that somebody may give back."""
_SAID_BY_PEOPLE: Final = frozenset((DECISION_KIND, TOMBSTONE_KIND))
"""Records that nothing else makes again."""


class Stated(NamedTuple):
    """Records ``[first_sequence, next_sequence)`` that their author says are lost."""

    feed: bytes
    epoch: int
    first_sequence: int
    next_sequence: int
    at_us: int


def stated_in(store: Store) -> list[Stated]:
    """Return what authors state to be lost of their own feeds."""
    return [each for row in store.records_since(0, (LOSS_KIND,)) for each in _read(row)]


def _read(row: Any) -> Iterator[Stated]:
    try:
        loss = Loss.from_attributes(dagcbor.decode_verified(row.attributes))
    except RemoteProtocolError:
        return  # its author may write what it likes in its own feed
    yield Stated(row.feed, loss.epoch, loss.first_sequence, loss.next_sequence, row.start_us)


def not_held(stated: Iterable[Stated], chains: Mapping[FeedEpoch, Chain]) -> list[Stated]:
    """Return what is stated to be lost but for what is held all the same."""

    def is_held(each: Stated) -> bool:
        chain = chains.get((each.feed, each.epoch))
        ranges = chain.ranges() if chain is not None else ()
        return any(a <= each.first_sequence and each.next_sequence <= b for a, b in ranges)

    return [each for each in stated if not is_held(each)]


async def lost_of(index: Index[Store], feeds: Feeds) -> list[Stated]:
    """Return what the index knows to be stated and is not held."""
    return not_held(await index.ask(stated_in), feeds.chains)


def sought(lost: Iterable[Lost], stated: Sequence[Stated]) -> list[Lost]:
    """Return what lies in damaged bytes and is not stated to be lost for good."""
    return [each for each in lost if beyond(_of(stated, each[:2]), [each[2:4]])]


def awaited(
    holes: Mapping[FeedEpoch, list[Range]], stated: Sequence[Stated]
) -> dict[FeedEpoch, list[Range]]:
    """Return the holes but for what is stated to be lost for good."""
    left = {key: beyond(_of(stated, key), ranges) for key, ranges in holes.items()}
    return {key: ranges for key, ranges in left.items() if ranges}


def _of(stated: Iterable[Stated], key: FeedEpoch) -> list[Range]:
    return [each[2:4] for each in stated if each[:2] == key]


def lost_told(lost: Sequence[Stated]) -> dict[str, Any]:
    """Return the ``not_held`` as JSON can hold it: the first of them, and how many records."""
    ranges: dict[FeedEpoch, list[Range]] = {}
    for each in lost:
        ranges.setdefault((each.feed, each.epoch), []).append(each[2:4])
    merged = (one for several in ranges.values() for one in merge(several))
    return {
        "lost_records": sum(end - first for first, end in merged),
        "lost": [
            {
                "peer": peer_id_of(each.feed),
                "epoch": each.epoch,
                "first_sequence": each.first_sequence,
                "next_sequence": each.next_sequence,
                "at": moment(each.at_us),
            }
            for each in lost[:MAX_TOLD]
        ],
    }


@dataclass(frozen=True, slots=True)
class Losses:
    """States what of our own feed is lost."""

    feeds: Feeds
    index: Index[Store]
    recorder: Recorder

    async def settle(
        self, findings: Sequence[Finding], *, is_accepted: bool = False
    ) -> list[Finding]:
        """State that ranges of our own feed are lost which nobody can be asked for any more, or
        with ``is_accepted`` also those that somebody may have who is away; return the findings,
        each of these with what became of it. On return the statements are signed and indexed.
        """
        own = peer_id_of(self.feeds.key.public)
        told: list[Finding] = []
        for each in findings:
            is_sought = each.code in _SOUGHT and each.feed == own
            if is_sought and (is_accepted or not each.fetch_from):
                told.append(await self._state(each))
            else:
                told.append(each)
        if told != list(findings):
            await self.feeds.cut_all()
            await self.index.catch_up()
        return told

    async def _state(self, finding: Finding) -> Finding:
        epoch, first, end = finding.epoch, finding.first_sequence, finding.next_sequence
        assert epoch is not None
        assert first is not None
        assert end is not None
        key = self.feeds.key.public
        held = await self.index.ask(lambda store: store.kinds_in(key, epoch, first, end))
        what = ", ".join(f"{count} {kind}" for kind, count in held) or "nothing that is known"
        loss = Loss(epoch=epoch, first_sequence=first, next_sequence=end)
        await self.recorder.event(LOSS_KIND, **loss.to_attributes())
        message = (
            f"records {first} to {end - 1} of {finding.feed}, epoch {epoch}, which are this"
            f" aggregator's own, are lost for good: nobody gave them back. They held {what}."
            f" {_advice(kind for kind, _ in held)}. Its feed says so from now on, and this is told"
            " no more"
        )
        return replace(finding, code="lost", message=message, fetch_from=[])


def _advice(kinds: Iterable[str]) -> str:
    again = ", ".join(sorted(_SAID_BY_PEOPLE.intersection(kinds)))
    return f"Say again what {again} said" if again else "Nothing needs doing"
