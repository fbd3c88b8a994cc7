"""What an aggregator's checkpoints say of one feed, and whether that goes with what it said before.

Who wrote the feed holds each aggregator to its word: what it acknowledged and what an earlier
checkpoint vouched for must be in every later one, and what it calls that feed's must be what was
signed. No clock is asked. An acknowledgement counts from the next checkpoint on, for the one that
came after it on a stream may have been made before it; the one after that cannot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec

from protocols import dagcbor
from protocols.chain import Chain, Range, merge
from protocols.checkpoint import CHECKPOINT_KIND, HEADS_KIND, HEADS_ROLE, Checkpoint, heads_in
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, Head, SignedHeader
from protocols.limits import (
    MAX_OWED_RANGES,
    MAX_TOLD_FAULTS,
    MAX_VOUCHED_BLOCKS,
    MAX_VOUCHED_BYTES,
)
from protocols.record import Record, kind_of

Ranges = Mapping[int, tuple[Range, ...]]
"""Sequences of one feed, by epoch."""

Place = tuple[int, int]
"""Epoch and sequence in a feed."""


class Own(NamedTuple):
    """What is known here of our own feed."""

    feed: bytes
    chains: Mapping[tuple[bytes, int], Chain]
    signed: Place | None
    """How far we ever signed; none while another instance of our key may have signed further."""


class Vouched(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One checkpoint as whoever was told of it can show it to anybody: the header that names it,
    that header's signature, the record, and the blocks of heads that were told.
    """

    header: bytes
    signature: bytes
    record: bytes
    blocks: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_VOUCHED_BLOCKS)]

    @property
    def cid(self) -> CID:
        """The checkpoint's name."""
        return CID.of(self.record)

    @property
    def place(self) -> Place:
        """Where it stands: the later of two is the newer."""
        header = SignedHeader.decode(self.header, self.signature).header
        return header.epoch, header.first_sequence + header.digests.index(self.cid.digest)

    @property
    def at_us(self) -> int:
        """The aggregator's wall clock: data only."""
        return Record.decode(self.record).start_us

    def heads_of(self, feed: bytes) -> list[Head]:
        """Return where it says that ``feed`` stands."""
        blocks = (Record.decode(block) for block in self.blocks)
        return [head for each in blocks for head in heads_in(each.attributes) if head.feed == feed]

    def beyond(self, own: Own) -> Place | None:
        """Return the furthest place of our feed that it vouches for and that lies beyond all that
        we ever signed, as far as we know: it made that up, or our feed lost its end.
        """
        made_up = [head for head in self.heads_of(own.feed) if _is_made_up(head, own)]
        return max(((head.epoch, head.next_sequence) for head in made_up), default=None)


class Watched(msgspec.Struct, array_like=True, kw_only=True):
    """What one aggregator is held to, and by which checkpoint; its file's content."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    last: Vouched
    owed: dict[str, tuple[Range, ...]] = {}
    """What it must hold of our feed, by epoch: acknowledged, or vouched for once;
    ``MAX_OWED_RANGES`` at most."""
    before: Vouched | None = None
    """The last one that contradicted nothing, where ``last`` does."""
    faults: tuple[str, ...] = ()
    """What ``last`` contradicts: the first ones; ``fault_count`` counts all."""
    asked: dict[str, tuple[Range, ...]] = {}
    """What was owed before ``last``: it is judged by this again when more of it is told."""
    fault_count: int = 0

    def encode(self) -> bytes:
        """Return the bytes of its file."""
        builtins = msgspec.to_builtins(self, builtin_types=(bytes,))
        return dagcbor.encode(builtins, max_bytes=MAX_VOUCHED_BYTES)

    @classmethod
    def decode(cls, encoded: bytes) -> Watched:
        """Read such a file; raises ``RemoteProtocolError``."""
        value = dagcbor.decode(encoded, max_bytes=MAX_VOUCHED_BYTES)
        try:
            return msgspec.convert(value, cls, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"not a checkpoint that was kept: {error}") from error


class Told:
    """Puts an aggregator's checkpoint together from the bundles of its feed that it tells: blocks
    of heads first, and those that did not change only once.
    """

    def __init__(self, feed: bytes, known: Vouched | None = None) -> None:
        """``feed`` is ours: only what says something of it is kept."""
        self._feed = feed
        self._blocks = {CID.of(block): block for block in known.blocks} if known else {}

    def take(self, bundle: Bundle) -> Vouched | None:
        """Take in a verified bundle; return the newest checkpoint in it, if there is any. Raises
        ``RemoteProtocolError`` for one that says nothing.
        """
        found: Vouched | None = None
        for encoded in filter(None, bundle.records):
            kind = kind_of(encoded)
            if kind == HEADS_KIND:
                self._keep(encoded)
            elif kind == CHECKPOINT_KIND:
                found = self._vouched(bundle, encoded)
        return found

    def _keep(self, encoded: bytes) -> None:
        heads = heads_in(Record.decode_verified(encoded).attributes)
        if any(head.feed == self._feed for head in heads):
            self._blocks[CID.of(encoded)] = encoded
        while len(self._blocks) > 2 * MAX_VOUCHED_BLOCKS:
            del self._blocks[next(iter(self._blocks))]

    def _vouched(self, bundle: Bundle, encoded: bytes) -> Vouched:
        record = Record.decode_verified(encoded)
        Checkpoint.from_attributes(record.attributes)
        named = {target for target, role in record.used if role == HEADS_ROLE}
        blocks = [block for cid, block in sorted(self._blocks.items()) if cid in named]
        return Vouched(
            header=bundle.header_bytes,
            signature=bundle.signature,
            record=encoded,
            blocks=tuple(blocks[:MAX_VOUCHED_BLOCKS]),
        )


class Judged(NamedTuple):
    """What follows from a checkpoint."""

    watched: Watched
    is_news: bool
    """Whether there are faults that were none before."""


def judge(
    known: Watched | None, fresh: Vouched, own: Own, promised: Mapping[int, Range]
) -> Judged | None:
    """Hold a checkpoint against what is ``known`` of its aggregator and what we hold of our ``own``
    feed; none if it is not news. ``promised`` was acknowledged before it was told, and counts from
    the next one on. Two tellings of one checkpoint are one, with the blocks of both.
    """
    is_same = known is not None and _name(fresh) == _name(known.last)
    if known is not None:
        if is_same:
            fresh = _together(known.last, fresh)
        if fresh == known.last or fresh.place < known.last.place:
            return None
    asked = (known.asked if is_same else known.owed) if known else {}
    heads = fresh.heads_of(own.feed)
    forked = () if is_same else _forked(known, fresh)
    found = [*forked, *_made_up(heads, own), *_differing(heads, own), *_lacking(asked, heads, own)]
    faults = tuple(found[:MAX_TOLD_FAULTS])
    watched = Watched(
        last=fresh,
        owed=_owed(known, heads, own, promised),
        before=_before(known, is_same=is_same) if faults else None,
        faults=faults,
        asked=asked,
        fault_count=len(found),
    )
    return Judged(watched, _is_news(known, watched))


def _is_news(known: Watched | None, fresh: Watched) -> bool:
    if known is None:
        return bool(fresh.faults)
    # Old faults must not hide a new one that is not among the first.
    return not set(fresh.faults) <= set(known.faults) or fresh.fault_count > known.fault_count


def _name(vouched: Vouched) -> tuple[CID, Place]:
    return vouched.cid, vouched.place  # one that stands anew, further on, is another


def _together(known: Vouched, again: Vouched) -> Vouched:
    """Return a checkpoint with the blocks of both tellings of it."""
    blocks = {CID.of(block): block for block in (*known.blocks, *again.blocks)}
    merged = [block for _, block in sorted(blocks.items())]
    return msgspec.structs.replace(known, blocks=tuple(merged[:MAX_VOUCHED_BLOCKS]))


def _owed(
    known: Watched | None, heads: Iterable[Head], own: Own, promised: Mapping[int, Range]
) -> dict[str, tuple[Range, ...]]:
    """Return what the next checkpoint must hold."""
    owed: dict[int, list[Range]] = {}
    for epoch, ranges in (known.owed if known else {}).items():
        owed.setdefault(int(epoch), []).extend(ranges)
    for head in heads:
        end = _signed_of(head, own)
        if head.first_sequence < end:
            owed.setdefault(head.epoch, []).append((head.first_sequence, end))
    for epoch, each in promised.items():
        owed.setdefault(epoch, []).append(each)
    return _bounded(owed, own)


def _signed_of(head: Head, own: Own) -> int:
    """Return up to where we can have signed what a head tells of; 0 for nothing of it. An epoch
    that we do not hold may be lost here.
    """
    if _is_made_up(head, own):
        return 0
    chain = own.chains.get((own.feed, head.epoch))
    return head.next_sequence if chain is None else min(head.next_sequence, chain.next_sequence)


def _bounded(owed: Mapping[int, list[Range]], own: Own) -> dict[str, tuple[Range, ...]]:
    """Keep no more than fits: epochs that we hold come first, then newer ones, each with its
    longest range before others' second.
    """
    ranked: list[tuple[bool, int, int, Range]] = []
    for epoch, ranges in owed.items():
        is_lost = (own.feed, epoch) not in own.chains
        longest_first = sorted(merge(ranges), key=lambda each: each[0] - each[1])
        ranked += [(is_lost, depth, -epoch, each) for depth, each in enumerate(longest_first)]
    kept: dict[int, list[Range]] = {}
    for _, _, epoch, each in sorted(ranked)[:MAX_OWED_RANGES]:
        kept.setdefault(-epoch, []).append(each)
    return {str(epoch): tuple(sorted(kept[epoch])) for epoch in sorted(kept)}


def _before(known: Watched | None, *, is_same: bool) -> Vouched | None:
    """Return the last checkpoint that contradicted nothing."""
    if known is None or is_same:
        return known and known.before
    return known.before or known.last


def _forked(known: Watched | None, fresh: Vouched) -> Iterator[str]:
    if known is not None and fresh.place == known.last.place:
        epoch, sequence = fresh.place
        yield (
            f"it signed two checkpoints at one place, {sequence} of epoch {epoch}:"
            f" {known.last.cid} and {fresh.cid}"
        )


def _is_made_up(head: Head, own: Own) -> bool:
    return own.signed is not None and (head.epoch, head.next_sequence) > own.signed


def _made_up(heads: Iterable[Head], own: Own) -> Iterator[str]:
    """Yield the furthest head that lies beyond all that we ever signed."""
    made_up = [(head.epoch, head.next_sequence) for head in heads if _is_made_up(head, own)]
    if made_up and own.signed is not None:
        epoch, end = max(made_up)
        yield (
            f"it vouches for record {end - 1} of our epoch {epoch}, and we signed none beyond"
            f" {own.signed[1]} records of epoch {own.signed[0]}: it made that up, or we lost it"
        )


def _lacking(
    asked: Mapping[str, tuple[Range, ...]], heads: Iterable[Head], own: Own
) -> Iterator[str]:
    """Yield the epochs that are not all there, those that we hold and the newest first."""
    held: dict[int, list[Range]] = {}
    for head in heads:
        held.setdefault(head.epoch, []).append((head.first_sequence, head.next_sequence))
    for epoch in sorted(map(int, asked), key=lambda e: ((own.feed, e) not in own.chains, -e)):
        merged = merge(held.get(epoch, []))
        lacking = [each for each in asked[str(epoch)] if not _is_within(each, merged)]
        if lacking:
            first, end = lacking[0]
            more = f" and {len(lacking) - 1} other ranges" if len(lacking) > 1 else ""
            yield (
                f"records {first} to {end - 1}{more} of our epoch {epoch}, which it acknowledged or"
                f" vouched for, are not all in its checkpoint"
            )


def _is_within(asked: Range, merged: list[Range]) -> bool:
    at = bisect_right(merged, asked[0], key=lambda each: each[0]) - 1
    return at >= 0 and asked[1] <= merged[at][1]


def _differing(heads: Iterable[Head], own: Own) -> Iterator[str]:
    """Yield the heads that are not of our history, as far as we hold that."""
    for head in heads:
        chain = own.chains.get((head.feed, head.epoch))
        if chain is None or chain.is_forked or head.next_sequence > chain.next_sequence:
            continue  # a fork shows elsewhere, and an epoch or tail of ours may be lost here
        dropped = chain.dropped
        if dropped is not None and head.next_sequence < dropped.next_sequence:
            continue
        ends = {link.digest for link in chain.over(head.next_sequence - 1)}
        if dropped is not None and head.next_sequence == dropped.next_sequence:
            ends = {dropped.digest}
        if ends and head.header.digest not in ends:
            yield (
                f"the record {head.next_sequence - 1} of our epoch {head.epoch} that it vouches"
                f" for is not under the header that we signed"
            )
