"""What of feeds is lost for good, as their own authors state, so that nobody looks for it for ever.

An aggregator states so itself, in its own feed and when a person says so, of bundles of its own
that its disk has damaged and that nobody who may have them could give back. Such a statement is a
record like any other: it is durable, signed, and spreads to whoever else misses the range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import trio

from aggregator.decisions import DECISION_KIND
from aggregator.intake import Intake
from aggregator.store import Store
from peer.check import Finding
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import JournalError
from peer.recorder import Recorder
from peer.rows import RecordRow
from peer.tables import Lost
from protocols import dagcbor
from protocols.chain import Chain, Range, beyond, merge
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Header
from protocols.keys import peer_id_of
from protocols.limits import MAX_LOSSES_OF_AUTHOR, MAX_LOST_NAMED, MAX_LOST_RECORDS
from protocols.loss import LOSS_KIND, Loss
from protocols.tombstone import TOMBSTONE_KIND

FeedEpoch = tuple[bytes, int]

MAX_TOLD: Final = 100
_GIVEN_UP: Final = ("damaged", "hole")
"""Findings about a range of our own feed that may be given up."""
_SAID_BY_PEOPLE: Final = frozenset((DECISION_KIND, TOMBSTONE_KIND))
"""Records that nothing else makes again."""


class Stated(NamedTuple):
    """What is lost, as the authors say whose word counts."""

    ranges: Mapping[FeedEpoch, list[Range]] = {}
    """Merged."""
    records: frozenset[bytes] = frozenset()
    """Records in them that others name."""

    def not_held(self, chains: Mapping[FeedEpoch, Chain]) -> Stated:
        """Return it but for what is held all the same."""
        left = ((key, _lacking(chains, key, ranges)) for key, ranges in self.ranges.items())
        return self._replace(ranges={key: ranges for key, ranges in left if ranges})


NOTHING_LOST: Final = Stated()


def _lacking(
    chains: Mapping[FeedEpoch, Chain], key: FeedEpoch, ranges: Iterable[Range]
) -> list[Range]:
    chain = chains.get(key)
    return beyond(chain.ranges() if chain is not None else (), ranges)


def stated_in(store: Store, authors: Iterable[bytes]) -> Stated:
    """Return what these authors state to be lost of their own feeds."""
    ranges: dict[FeedEpoch, list[Range]] = {}
    named: dict[bytes, bytes] = {}
    for row, loss in _read(store.earliest(LOSS_KIND, authors, MAX_LOSSES_OF_AUTHOR)):
        of_epoch = ranges.setdefault((row.feed, loss.epoch), [])
        of_epoch.append((loss.first_sequence, loss.next_sequence))
        named.update(dict.fromkeys(loss.records, row.feed))
    elsewhere = {row.cid for row in store.bodiless(named) if row.feed != named[row.cid]}
    merged = {key: merge(several) for key, several in ranges.items()}
    return Stated(merged, frozenset(named.keys() - elsewhere))


def _read(rows: Iterable[RecordRow]) -> Iterator[tuple[RecordRow, Loss]]:
    for row in rows:
        try:
            loss = Loss.from_attributes(dagcbor.decode_verified(row.attributes))
        except RemoteProtocolError:
            continue  # its author may write what it likes in its own feed
        if loss.stands_before(row.epoch, row.sequence):
            yield row, loss


def sought(lost: Iterable[Lost], stated: Stated, own: bytes) -> list[Lost]:
    """Return what lies in damaged bytes, but for what is given up of our ``own`` feed."""
    return [
        each
        for each in lost
        if each.feed != own or beyond(stated.ranges.get(each[:2], ()), [each[2:4]])
    ]


def awaited(holes: Mapping[FeedEpoch, list[Range]], stated: Stated) -> dict[FeedEpoch, list[Range]]:
    """Return the holes but for what is stated to be lost for good."""
    left = {key: beyond(stated.ranges.get(key, ()), ranges) for key, ranges in holes.items()}
    return {key: ranges for key, ranges in left.items() if ranges}


def lost_told(stated: Stated) -> dict[str, Any]:
    """Return what is ``not_held`` as JSON can hold it: the first ranges, and how many records."""
    lost = [(*key, *each) for key, several in sorted(stated.ranges.items()) for each in several]
    return {
        "lost_records": sum(end - first for *_, first, end in lost),
        "lost": [
            {
                "peer": peer_id_of(feed),
                "epoch": epoch,
                "first_sequence": first,
                "next_sequence": end,
            }
            for feed, epoch, first, end in lost[:MAX_TOLD]
        ],
    }


@dataclass(frozen=True, slots=True)
class Losses:
    """Knows what is lost, and states what of our own feed is."""

    feeds: Feeds
    index: Index[Store]
    intake: Intake
    recorder: Recorder
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Held from before a check looks until what it gives up is stated."""

    @property
    def aggregators(self) -> list[bytes]:
        """The feeds that showed the role by which such statements count, as of ``known``."""
        return self.intake.findings.roster.stating(LOSS_KIND)

    async def known(self) -> Stated:
        """Return what is stated to be lost, in feeds of aggregators, and not held."""
        await self.intake.take_in()
        # Our own certificate may be among what we lost
        authors = {*self.aggregators, self.feeds.key.public}
        stated = await self.index.ask(lambda store: stated_in(store, authors))
        return stated.not_held(self.feeds.chains)

    async def explain(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings; where nobody is left to be asked for what is ours, each says what to
        do.
        """
        return [
            replace(each, message=f"{each.message}; {await self._way_out(each)}")
            if self._may_give_up(each) and not each.fetch_from
            else each
            for each in findings
        ]

    async def _way_out(self, finding: Finding) -> str:
        held = await self._kinds_in(*_range_of(finding))
        return (
            "nobody is left who may have them: `covey-aggregator check --accept-loss`, with the"
            f" aggregator running, states that they are lost. {_contents(held)}"
        )

    async def give_up(
        self, findings: Iterable[Finding], broken: Sequence[Header], up: Set[str] | None
    ) -> list[Finding]:
        """State that ranges of our own feed are lost; return the findings, each of these with what
        became of it. ``broken`` are headers of ours whose records are gone; of those who are ``up``
        nobody is left out who may have them, and without it nobody was asked yet. On return the
        statements are signed and indexed, as far as the disk has room.
        """
        told: list[Finding] = []
        for each in findings:
            if not self._may_give_up(each):
                told.append(each)
            elif up is None or not up.isdisjoint(each.fetch_from):
                told.append(replace(each, message=f"{each.message}; {_TOO_EARLY}"))
            else:
                told.append(await self._give_up(each, broken))
        await self.feeds.cut_all()
        await self.index.catch_up()
        return told

    def _may_give_up(self, finding: Finding) -> bool:
        return finding.code in _GIVEN_UP and finding.feed == peer_id_of(self.feeds.key.public)

    async def _give_up(self, finding: Finding, broken: Sequence[Header]) -> Finding:
        try:
            why_not = await self._state(*_range_of(finding), broken)
        except JournalError as error:
            why_not = error.message
        if why_not:
            return replace(finding, message=f"{finding.message}; not given up: {why_not}")
        held = await self._kinds_in(*_range_of(finding))
        message = (
            f"records {finding.first_sequence} to {(finding.next_sequence or 0) - 1} of"
            f" {finding.feed}, epoch {finding.epoch}, which are this aggregator's own, are given up"
            f" for lost. {_contents(held)}. Its feed says so from now on, and this is told no more"
        )
        return replace(finding, code="lost", message=message, fetch_from=[])

    async def _state(self, epoch: int, first: int, end: int, broken: Sequence[Header]) -> str:
        """State what of a range is neither held nor stated; return why not, if so."""
        key = (self.feeds.key.public, epoch)
        known = (await self.known()).ranges.get(key, [])
        parts = beyond(known, _lacking(self.feeds.chains, key, [(first, end)]))
        if not parts:
            return "they came back meanwhile"
        if any(stop - start > MAX_LOST_RECORDS for start, stop in parts):
            return "no feed of ours was ever so long, so somebody else signed with its key"
        losses = [
            loss
            for part in parts
            for loss in _split(epoch, part, await self._named_in(epoch, *part, broken))
        ]
        if why_not := await self._why_not(losses):
            return why_not
        for loss in losses:
            await self.recorder.event(LOSS_KIND, **loss.to_attributes())
        await self.index.catch_up()
        return ""

    async def _why_not(self, losses: Sequence[Loss]) -> str:
        here = self.feeds.epoch, self.feeds.next_sequence
        if not all(each.stands_before(*here) for each in losses):
            return "they are not in front of what this feed writes next"
        own = [self.feeds.key.public]
        rows = await self.index.ask(
            lambda store: store.earliest(LOSS_KIND, own, MAX_LOSSES_OF_AUTHOR)
        )
        has_room = len(rows) + len(losses) <= MAX_LOSSES_OF_AUTHOR
        return "" if has_room else f"of one feed {MAX_LOSSES_OF_AUTHOR} losses count, and no more"

    async def _named_in(
        self, epoch: int, first: int, end: int, broken: Sequence[Header]
    ) -> list[tuple[int, CID]]:
        """Return which records of a range of ours are known and named by others."""
        key = self.feeds.key.public
        known = {
            sequence: CID.of_digest(digest)
            for header in broken
            if header.epoch == epoch
            for sequence, digest in enumerate(header.digests, header.first_sequence)
            if first <= sequence < end
        }

        def named(store: Store) -> set[bytes]:
            places = store.records_in(key, epoch, first, end)
            known.update((sequence, CID(cid)) for sequence, cid in places)
            return store.named(known.values())

        names = await self.index.ask(named)
        return sorted((sequence, cid) for sequence, cid in known.items() if cid in names)

    async def _kinds_in(self, epoch: int, first: int, end: int) -> list[tuple[str, int]]:
        key = self.feeds.key.public
        return await self.index.ask(lambda store: store.kinds_in(key, epoch, first, end))


_TOO_EARLY: Final = (
    "not given up: whoever is connected and may have them is being asked, so check again"
)


def _split(epoch: int, part: Range, named: Sequence[tuple[int, CID]]) -> Iterator[Loss]:
    """Yield the statements about a range, each with as many records as it may name."""
    first, end = part
    starts = [first, *(sequence for sequence, _ in named[MAX_LOST_NAMED::MAX_LOST_NAMED])]
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], end], strict=True)):
        names = named[number * MAX_LOST_NAMED : (number + 1) * MAX_LOST_NAMED]
        yield Loss(
            epoch=epoch,
            first_sequence=start,
            next_sequence=stop,
            records=tuple(cid for _, cid in names),
        )


def _range_of(finding: Finding) -> tuple[int, int, int]:
    epoch, first, end = finding.epoch, finding.first_sequence, finding.next_sequence
    assert epoch is not None
    assert first is not None
    assert end is not None
    return epoch, first, end


def _contents(held: Sequence[tuple[str, int]]) -> str:
    """Return what records of these kinds held, and what is to be done without them."""
    what = ", ".join(f"{count} {kind}" for kind, count in held) or "nothing that is known"
    again = ", ".join(sorted(_SAID_BY_PEOPLE.intersection(kind for kind, _ in held)))
    advice = f"Say again what {again} said" if again else "Nothing else needs doing"
    return f"They held {what}. {advice}"
