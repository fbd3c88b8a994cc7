"""Generated sets of records and ways in which they arrive, and what holders answer about them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st

from aggregator.store import Store
from peer.feeds import Feeds
from peer.rows import read_batch
from peer.tables import IN_MEMORY
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import SigningKey
from protocols.record import Record
from tests.support.exchanging import FOLLOWING, Meeting, Peer, meet, until
from tests.support.feeds import START_US, effects, key, open_journal
from tests.support.patient_clock import patient_clock

AUTHORS = 3
CLOCKS_US = (START_US, 0, START_US + 10**15, START_US - 10**15, (1 << 62) - 1)
ALL_ROWS = 10_000  # no generated set has as many
_EPOCHS = st.sets(st.sampled_from([1, 2, 1 << 40]), min_size=1, max_size=2)


@dataclass(frozen=True)
class Delivery:
    """How one holder gets some of the bundles: batches of their numbers, in order, with repeats."""

    batches: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> set[int]:
        """Which bundles arrive at all."""
        return {number for batch in self.batches for number in batch}


@st.composite
def record_sets(draw: st.DrawFn) -> list[Bundle]:
    """Feeds of several authors: epochs, forks, clocks that lie, and parents that nobody has."""
    rng = draw(st.randoms(use_true_random=False))
    bundles: list[Bundle] = []
    known = [CID.of(b"nobody has this"), CID.of(b"nor this")]
    for number in range(draw(st.integers(1, AUTHORS))):
        author = key(100 + number)
        for epoch in sorted(
            draw(st.sets(st.sampled_from([1, 2, 1 << 40]), min_size=1, max_size=2))
        ):
            trunk = _chain(author, Place(epoch, 0, None), draw(st.integers(1, 5)), rng, known)
            bundles += trunk
            if draw(st.booleans()):  # the key signs a second truth from somewhere on
                start = trunk[rng.randrange(len(trunk))]
                place = Place(epoch, start.header.first_sequence, start.header.previous)
                bundles += _chain(author, place, draw(st.integers(1, 3)), rng, known)
    return bundles


def _chain(
    author: SigningKey, place: Place, length: int, rng: Any, known: list[CID]
) -> list[Bundle]:
    made: list[Bundle] = []
    for _ in range(length):
        records = [_record(author, rng, known) for _ in range(rng.randint(1, 4))]
        bundle = sign_bundle(author, place, records, rng.choice(CLOCKS_US))
        known += [CID.of(encoded) for encoded in records]
        made.append(bundle)
        place = Place(place.epoch, bundle.header.next_sequence, bundle.cid)
    return made


def _record(author: SigningKey, rng: Any, known: Sequence[CID]) -> bytes:
    return Record(
        author=author.public,
        nonce=rng.randbytes(8),
        kind="test",
        informed_by=tuple(dict.fromkeys(rng.choices(known, k=rng.randint(0, 3)))),
        environment=rng.choice([None, *known[:2]]),
        start_us=rng.choice(CLOCKS_US),
        attributes={},
    ).encode()


@st.composite
def deliveries(draw: st.DrawFn, count: int) -> Delivery:
    """Some of ``count`` bundles are lost; the others come in any order, some twice, in batches of
    any size.
    """
    arriving = draw(st.lists(st.integers(0, count - 1), max_size=2 * count))
    cuts = sorted(draw(st.sets(st.integers(0, len(arriving)), max_size=4)))
    edges = [0, *cuts, len(arriving)]
    parts = (tuple(arriving[a:b]) for a, b in pairwise(edges))
    return Delivery(tuple(parts))


def answers_of(feeds: Feeds, journal_rows: Store) -> dict[str, Any]:
    """Everything that must be a function of the set of bundles alone."""
    counts = journal_rows.counts()
    return {
        "state_root": feeds.state_root(),
        "heads": feeds.heads(),
        "holes": feeds.holes,
        "forks": sorted(feeds.forks),
        "missing": journal_rows.missing(ALL_ROWS),
        "counts": counts,
    }


def check(bundles: list[Bundle], one: Delivery, other: Delivery) -> None:
    """Two holders get what arrives of a set, meet, and answer as somebody who got it all in order.

    So they do when they start again from their journals.
    """
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        with patient_clock() as clock:
            together = trio.run(_exchange, Path(folder), bundles, (one, other), clock=clock)
        kept = [bundles[number] for number in sorted(one.numbers | other.numbers)]
        reference = trio.run(_in_order, Path(folder), kept)
        again = [_reopened(Path(folder) / f"journal-{number}") for number in (1, 2)]
    assert together == [reference, reference]
    assert again == [reference["state_root"]] * 2


async def _exchange(
    folder: Path, bundles: list[Bundle], parts: Sequence[Delivery]
) -> list[dict[str, Any]]:
    async with Meeting(folder).peers(one=FOLLOWING, two=FOLLOWING) as (one, two):
        for peer, part in zip((one, two), parts, strict=True):
            for batch in part.batches:
                await peer.feeds.add_all([bundles[number] for number in batch])
        await meet(one, two)
        await until(lambda: one.feeds.state_root() == two.feeds.state_root(), within_s=300)
        return [_answers_at(peer) for peer in (one, two)]


def _answers_at(peer: Peer) -> dict[str, Any]:
    with closing(Store.open(IN_MEMORY)) as store:
        journal = peer.journal
        while store.mark() < journal.size:
            store.insert(read_batch(journal.scan(store.mark()), journal.size, peer.key.public))
        return answers_of(peer.feeds, store)


async def _in_order(folder: Path, bundles: list[Bundle]) -> dict[str, Any]:
    async with Meeting(folder).peer(3) as peer:
        await peer.feeds.add_all(bundles)
        return _answers_at(peer)


def _reopened(path: Path) -> CID:
    with closing(open_journal(path)) as journal:
        return Feeds(journal, key(1), effects()).state_root()
