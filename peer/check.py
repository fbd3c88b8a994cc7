"""Walks the journal byte by byte and says what is wrong with it, and who may still have it.

Nothing is believed that can be computed again: every entry's digest, every signature, every
record's digest, the chain of every feed, and how many rows the index should have. The index is of
use all the same: it remembers what lay where bytes are damaged now.

Damage behind which nothing is missing any more (it was fetched again, or never was acknowledged) is
counted and is no finding; ``peer.healing`` lets go of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from peer.absences import LackingBody
from peer.bodies import Unshown
from peer.rows import RecordRow
from peer.tables import Lost, Rows
from protocols.ack import AckEntry, SignedAck
from protocols.chain import Chain, Dropped, Link, Range, beyond, merge
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, Header, SignedHeader
from protocols.journal import Damage, DroppedBody, Entry, HeaderBody, RecordBody, Scanned
from protocols.keys import peer_id_of
from protocols.record import Record
from protocols.sync import Gone

FeedEpoch = tuple[bytes, int]

MAX_NAMED_REDACTED: Final = 3  # in one finding's sentence, of up to 256 that one tombstone names


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, and which peers may still have what is gone."""

    code: str
    message: str
    feed: str | None = None
    epoch: int | None = None
    first_sequence: int | None = None
    next_sequence: int | None = None
    cid: str | None = None
    fetch_from: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Walked:
    """What one pass over a journal found; ``own`` is the key that signs its own records."""

    own: bytes
    entries: int = 0
    records: int = 0
    edges: int = 0
    bundles: int = 0
    bodiless: int = 0
    chains: dict[FeedEpoch, Chain] = field(default_factory=dict[FeedEpoch, Chain])
    damage: list[Damage] = field(default_factory=list[Damage])
    """Where no whole entry is."""
    faults: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(offset, what is wrong) of each entry that is whole and does not hold."""
    acked: list[AckEntry] = field(default_factory=list[AckEntry])
    ackers: set[bytes] = field(default_factory=set[bytes])
    uncut: Counter[bytes] = field(default_factory=Counter[bytes])
    """Digests of our own records that no header has named yet."""
    broken: dict[int, SignedHeader] = field(default_factory=dict[int, SignedHeader])
    """Headers of our own of which records are gone, by where they are; after the walk, those whose
    bundle is not here in another way either, nor was dropped.
    """
    has_dropped: bool = False
    """Whether anything was let go of, the bytes of which may be there still."""


def walk(entries: Iterable[Scanned | Damage], own: bytes) -> Walked:
    """Verify every entry of a journal; costs a millisecond a bundle, so it wants a thread."""
    walked = Walked(own)
    for found in entries:
        if isinstance(found, Damage):
            walked.damage.append(found)
            continue
        walked.entries += 1
        take = _TAKERS.get(found.kind)
        if take is None:
            continue
        try:
            take(walked, found)
        except RemoteProtocolError as error:
            walked.faults.append((found.offset, error.message))
    walked.bundles += len(walked.broken)
    walked.broken = {
        offset: signed
        for offset, signed in walked.broken.items()
        if not _is_held(walked, signed) and not _is_dropped(walked, signed)
    }
    return walked


def unreadable(walked: Walked) -> list[Damage]:
    """Return where bundles may begin that cannot be read whole."""
    broken = [*(at for at, _ in walked.faults), *walked.broken]
    return [*walked.damage, *(Damage(at, at + 1) for at in broken)]


def _is_held(walked: Walked, signed: SignedHeader) -> bool:
    chain = walked.chains.get((signed.header.feed, signed.header.epoch))
    place = signed.header.first_sequence, signed.cid.digest
    return chain is not None and chain.find(*place) is not None


def _is_dropped(walked: Walked, signed: SignedHeader) -> bool:
    """Say whether that range was let go of: its header may outlive its records on the disk."""
    chain = walked.chains.get((signed.header.feed, signed.header.epoch))
    return chain is not None and signed.header.first_sequence < chain.dropped_below


def _take_record(walked: Walked, found: Scanned) -> None:
    _, _, encoded, digest = RecordBody.decode(found.body)
    if digest:
        walked.bodiless += 1
        walked.uncut[digest] += 1
        return
    walked.records += 1
    record = Record.decode(encoded)
    walked.edges += _edges(record)
    if record.author != walked.own:
        raise RemoteProtocolError("a record of another author stands among our own")
    walked.uncut[CID.of(encoded).digest] += 1


def _take_header(walked: Walked, found: Scanned) -> None:
    signed = SignedHeader.decode(*HeaderBody.decode(found.body))
    named = Counter(signed.header.digests)
    is_broken = bool(named - walked.uncut)
    walked.uncut -= named
    if is_broken:
        walked.broken[found.offset] = signed
        return
    walked.bundles += 1
    _link(walked, signed.header, signed.cid, found.offset)


def _take_bundle(walked: Walked, found: Scanned) -> None:
    bundle = Bundle.decode(found.body)
    walked.bundles += 1
    bodies = [record for record in bundle.records if record]
    walked.records += len(bodies)
    walked.bodiless += len(bundle.records) - len(bodies)
    walked.edges += sum(_edges(Record.decode_verified(each)) for each in bodies)
    _link(walked, bundle.header, bundle.cid, found.offset)


def _take_ack(walked: Walked, found: Scanned) -> None:
    ack = SignedAck.decode(found.body)
    SignedAck.verified(ack.payload, ack.signature, ack.content.aggregator)
    walked.acked += ack.feeds
    walked.ackers.add(ack.content.aggregator)


def _take_dropped(walked: Walked, found: Scanned) -> None:
    told = DroppedBody.decode(found.body)
    chain = walked.chains.setdefault((told.feed, told.epoch), Chain())
    chain.drop(Dropped(told.next_sequence, told.digest, told.aggregator))
    walked.has_dropped = True


_TAKERS: dict[int, Callable[[Walked, Scanned], None]] = {
    Entry.RECORD: _take_record,
    Entry.HEADER: _take_header,
    Entry.BUNDLE: _take_bundle,
    Entry.ACK: _take_ack,
    Entry.DROPPED: _take_dropped,
}


def _edges(record: Record) -> int:
    return len(record.used) + len(record.generated) + len(record.informed_by)


def _link(walked: Walked, header: Header, cid: CID, offset: int) -> None:
    chain = walked.chains.setdefault((header.feed, header.epoch), Chain())
    if chain.find(header.first_sequence, cid.digest) is None:
        chain.add(Link.of(header, cid.digest, offset))


@dataclass(slots=True)
class Checker:
    """Turns a walk into findings; ``lost`` is what the index knows to have lain in damage."""

    walked: Walked
    lost: list[Lost]
    aggregators: tuple[str, ...] = ()
    gone: Mapping[FeedEpoch, Gone] = field(default_factory=dict[FeedEpoch, Gone])
    """What peers told that they have dropped, because another aggregator holds it."""
    asked: frozenset[str] = frozenset()
    """Who has sent all that it had after the damage was found: what is not here is not there."""
    stated: Mapping[FeedEpoch, list[Range]] = field(default_factory=dict[FeedEpoch, list[Range]])
    """What of feeds is lost for good, as their authors say: that it is not here is no news. Of
    others' feeds that does not excuse that we had it."""
    signed_to: tuple[int, int] | None = None
    """The epoch of our own feed, and how far in it we have signed."""
    whole: frozenset[bytes] | None = None
    """Of which feeds everything should be here; none: of all."""
    remedy: str = "`covey-aggregator rebuild` makes it anew"
    """What is done about an index that differs."""
    damaged: dict[FeedEpoch, list[Range]] = field(init=False)
    """What lies in damaged bytes. A bundle of our own is gone with any of its parts."""

    def __post_init__(self) -> None:
        """Gather what is damaged."""
        ranges: dict[FeedEpoch, list[Range]] = {}
        for feed, epoch, first, end in self.lost:
            ranges.setdefault((feed, epoch), []).append((first, end))
        for header in (signed.header for signed in self.walked.broken.values()):
            ranges.setdefault((header.feed, header.epoch), []).append(_extent(header))
        self.damaged = {key: merge(several) for key, several in ranges.items()}

    def findings(self, rows: Rows) -> Iterator[Finding]:
        """Yield what is wrong with the journal, then whether the index with ``rows`` follows it."""
        for offset, message in self.walked.faults:
            yield Finding("bad-entry", f"the entry at byte {offset} does not hold: {message}")
        for key, ranges in sorted(self.damaged.items()):
            for first, end in beyond(self._given_up(*key), ranges):
                yield self._range(
                    "damaged", "lay in damaged bytes of the journal", *key, first, end
                )
        for (feed, epoch), chain in sorted(self.walked.chains.items()):
            yield from self._chain_findings(feed, epoch, chain)
        yield from self._acked_findings()
        yield from self._index_findings(rows)

    def absent(self, bodies: Iterable[LackingBody]) -> Iterator[Finding]:
        """Yield the records that headers name, that nobody redacted and nobody sent whole."""
        for body in bodies:
            author = peer_id_of(body.feed)
            place = (author, body.epoch, body.sequence, body.sequence + 1)
            message = f"the content of record {body.cid} of {author} is not here"
            holders = self._holders(author)
            yield Finding("body-absent", message, *place, str(body.cid), holders)

    def unshown(
        self, statements: Iterable[Unshown], rows: Mapping[bytes, RecordRow]
    ) -> Iterator[Finding]:
        """Yield the tombstones, and certificates by which some count, whose signed bytes are gone;
        ``rows`` are those that the index still has of them.
        """
        for each in statements:
            author, row = peer_id_of(each.author), rows.get(each.cid)
            finding = Finding("tombstone-lost", _statement_told(each, author), author)
            if row is not None:
                at = (row.epoch, row.sequence, row.sequence + 1)
                finding = Finding("tombstone-lost", finding.message, author, *at)
            yield replace(finding, cid=str(each.cid), fetch_from=self._holders(author))

    def _chain_findings(self, feed: bytes, epoch: int, chain: Chain) -> Iterator[Finding]:
        holes = chain.holes() if self._should_be_whole(feed) else []
        key = (feed, epoch)
        for first, end in beyond([*self.damaged.get(key, ()), *self.stated.get(key, ())], holes):
            yield self._hole(feed, epoch, first, end)
        if chain.is_forked:
            peer = peer_id_of(feed)
            message = f"the feed of {peer} forks in epoch {epoch}: its key signed two truths"
            yield Finding("fork", message, peer, epoch)

    def _should_be_whole(self, feed: bytes) -> bool:
        return self.whole is None or feed in self.whole

    def _hole(self, feed: bytes, epoch: int, first: int, end: int) -> Finding:
        gone = self.gone.get((feed, epoch))
        if gone is None or gone.next_sequence < end:
            return self._range("hole", "are not here", feed, epoch, first, end)
        holder = peer_id_of(gone.aggregator)
        if gone.aggregator == self.walked.own:
            what = "were lost here, and their author dropped them because we had acknowledged them"
            return replace(self._range("gone", what, feed, epoch, first, end), fetch_from=[])
        what = f"were dropped before this aggregator came, because aggregator {holder} keeps them"
        finding = self._range("gone", what, feed, epoch, first, end)
        return replace(finding, fetch_from=[holder])

    def _acked_findings(self) -> Iterator[Finding]:
        """An aggregator promised to keep what we had: had we lost it since, this shows it."""
        furthest: dict[FeedEpoch, int] = {}
        for entry in self.walked.acked:
            if not self._should_be_whole(entry.feed):
                continue
            key = (entry.feed, entry.epoch)
            furthest[key] = max(furthest.get(key, 0), self._possible(entry))
        for key, end in sorted(furthest.items()):
            chain = self.walked.chains.get(key)
            first = chain.next_sequence if chain else 0
            told = [*self.damaged.get(key, ()), *self._given_up(*key)]
            for gone in beyond(told, [(first, end)] if first < end else []):
                yield self._range("behind-ack", "were acknowledged and are gone", *key, *gone)

    def _possible(self, entry: AckEntry) -> int:
        """Return up to where an acknowledgement can be true: nobody has what we have not signed."""
        if self.signed_to is None or entry.feed != self.walked.own:
            return entry.next_sequence
        epoch, end = self.signed_to
        if entry.epoch < epoch:
            return entry.next_sequence
        return min(end, entry.next_sequence) if entry.epoch == epoch else 0

    def _index_findings(self, rows: Rows) -> Iterator[Finding]:
        walked = self.walked
        is_broken = any(
            beyond(self._given_up(header.feed, header.epoch), [_extent(header)])
            for header in (signed.header for signed in walked.broken.values())
        )
        if walked.damage or walked.faults or is_broken or walked.has_dropped:
            return  # the index remembers what was there, or forgot what still is, and must differ
        expected = (walked.records, walked.edges, walked.bundles, walked.bodiless)
        got = (rows.records, rows.edges, rows.bundles, rows.bodiless)
        if got != expected:
            yield Finding(
                "index-differs",
                "the index has {} records, {} links, {} bundles and {} absences".format(*got)
                + ", the journal {}, {}, {} and {}".format(*expected)
                + f": {self.remedy}",
            )

    def _range(
        self, code: str, what: str, feed: bytes, epoch: int, first: int, end: int
    ) -> Finding:
        peer = peer_id_of(feed)
        message = f"records {first} to {end - 1} of {peer}, epoch {epoch}, {what}"
        holders = self._holders(peer)
        return Finding(code, message, peer, epoch, first, end, fetch_from=holders)

    def _holders(self, author: str) -> list[str]:
        """Return who may have records of ``author``: itself, and every other aggregator."""
        known = {*self.aggregators, *map(peer_id_of, self.walked.ackers)}
        others = sorted(known - {author})
        cannot = self.asked | {peer_id_of(self.walked.own)}
        return [peer for peer in (author, *others) if peer not in cannot]

    def _given_up(self, feed: bytes, epoch: int) -> list[Range]:
        """Return what of our own feed we stated ourselves to be lost."""
        return self.stated.get((feed, epoch), []) if feed == self.walked.own else []


def _extent(header: Header) -> Range:
    return header.first_sequence, header.next_sequence


def _statement_told(statement: Unshown, author: str) -> str:
    named = ", ".join(map(str, statement.records[:MAX_NAMED_REDACTED]))
    more = len(statement.records) - MAX_NAMED_REDACTED
    redacted = f"{named} and {more} more" if more > 0 else named or "nothing that is known here"
    what = "certificate for its tombstones" if statement.is_certificate else "tombstone"
    until = "" if statement.is_kept else " until the next start"
    return (
        f"{author}'s {what}, {statement.cid}, is not here any more: the content of {redacted} stays"
        f" erased{until}, and nobody can be shown why"
    )
