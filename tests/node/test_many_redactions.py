"""An author who redacts more records than are remembered of one: what is held does not depend on
what came first, nor does what of it counts, and everything is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings, strategies as st

from protocols.errors import CoveyError
from protocols.feed import Bundle
from protocols.journal import Entry
from protocols.membership import AGGREGATOR
from protocols.tombstone import Redactions
from tests.node.test_redaction import AUTHOR, OPERATOR, OWNER, Peer, marked, signed, up, without
from tests.support.feeds import bundles_of, cid_of, record
from tests.support.rot import flip_at
from tests.unit.test_tombstone import certificate, tombstone

BOUND = 3
NAMED = [cid_of(each) for each in (marked(AUTHOR), *(record(AUTHOR, n) for n in range(5)))]


def history() -> list[Bundle]:
    """Tombstones of an author, the third of which is too much, and of an operator who shows its
    role behind them; two records of the author that are redacted are here, one of them by what is
    too much alone.
    """
    chain = [signed(AUTHOR, marked(AUTHOR), record(AUTHOR, 9), record(AUTHOR, 4))]
    for number, part in enumerate((NAMED[:1], NAMED[2:4], NAMED[4:])):
        said = tombstone(AUTHOR, "author", *part, number=number, at_us=number)
        chain.append(signed(AUTHOR, said, before=chain[-1]))
    for number, cid in enumerate(NAMED[:4]):
        said = tombstone(OPERATOR, "aggregator", cid, number=number)
        before = None if number == 0 else chain[-1]
        chain.append(signed(OPERATOR, said, before=before))
    shown = signed(OPERATOR, certificate(OPERATOR, AGGREGATOR), before=chain[-1])
    return [*chain, shown]


HISTORY = history()


def answers_of(redactions: Redactions) -> list[object]:
    return [redactions.excessive, *(redactions.of(cid, AUTHOR.public) for cid in NAMED)]


async def offered_again(peer: Peer) -> list[object]:
    """Have whatever is wanted from whoever has all of it; return which bodies are held then, and
    which are wanted.
    """
    for bundle in HISTORY:
        await peer.feeds.add(bundle)
    await peer.erased()
    held = [each for bundle in bundles_of(peer.feeds) for each in bundle.records]
    return [held, peer.feeds.bodies.lacking, peer.feeds.bodies.lacking_count]


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(len(HISTORY))))
def test_what_is_held_and_what_counts_does_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    async def answers(home: Path, numbers: list[int]) -> list[Any]:
        async with up(home) as peer:
            for number in numbers:
                await peer.feeds.add(HISTORY[number])
                await peer.erased()
            first = answers_of(peer.feeds.bodies.redactions)
            bodies = await offered_again(peer)
        async with up(home) as peer:
            await peer.erased()
            again = answers_of(peer.feeds.bodies.redactions)
            held = [each.header for each in bundles_of(peer.feeds)]
            root, found = peer.feeds.state_root(), peer.files_with_marker()
            assert await offered_again(peer) == bodies
        assert again == first
        return [first, bodies, root, held, found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", BOUND)
        usual = list(range(len(HISTORY)))
        some, other = (
            trio.run(answers, tmp_path_factory.mktemp("home"), each) for each in (order, usual)
        )

    assert some == other
    assert some[1][0].count(record(AUTHOR, 4).encode()) == 1
    assert some[1][1:] == [[], 0]
    assert len(some[3]) == len(HISTORY)
    assert some[-1] == []


async def test_an_author_redacts_no_more_than_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 1)
    async with up(tmp_path) as peer:
        cids = [await peer.feeds.append(record(OWNER, number)) for number in range(2)]
        with pytest.raises(CoveyError) as refused:
            await peer.redactor.redact(cids, "both", "author")
        one = await peer.redactor.redact(cids[:1], "one", "author")
        with pytest.raises(CoveyError, match="may redact 0 more"):
            await peer.redactor.redact(cids[1:], "another", "author")

    assert refused.value.code == "too-many-redactions"
    assert [each["is_new"] for each in one] == [True]


async def test_a_tombstone_that_counts_no_longer_is_not_missed_and_redacts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its author names too many with an earlier one, and it lies in damaged bytes."""
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", BOUND)
    whole = signed(AUTHOR, marked(AUTHOR), record(AUTHOR, 9))
    late = tombstone(AUTHOR, "author", NAMED[0], number=1, at_us=1)
    last = signed(AUTHOR, late, before=whole)
    early = signed(AUTHOR, tombstone(AUTHOR, "author", *NAMED[1:4], at_us=0), before=last)
    async with up(tmp_path) as peer:
        await peer.feeds.add_all([whole, last])
        await peer.erased()
        kept = set(peer.feeds.bodies.kept)
        await peer.feeds.add(early)
        await peer.erased()
        link = peer.feeds.chains[AUTHOR.public, 1].find(2, last.cid.digest)
        assert link is not None
        flip_at(tmp_path / "journal", link.offset + 60)
        assert peer.feeds.read(link) is None
        missed = peer.feeds.bodies.unshown()
        kept_then = set(peer.feeds.bodies.kept)
    async with up(tmp_path) as peer:
        missed += peer.feeds.bodies.unshown()
        lacking = [each.cid for each in peer.feeds.bodies.lacking]
        await peer.feeds.add(whole)
        held = [each for bundle in bundles_of(peer.feeds) for each in bundle.records]

    assert kept == {cid_of(late)}
    assert cid_of(late) not in kept_then
    assert missed == []
    assert lacking == [NAMED[0]]
    assert marked(AUTHOR).encode() in held


async def test_what_was_erased_is_wanted_again_once_its_tombstone_counts_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 2)
    whole = signed(AUTHOR, record(AUTHOR, 9), marked(AUTHOR))
    late = tombstone(AUTHOR, "author", NAMED[0], number=1, at_us=9)
    last = signed(AUTHOR, late, before=whole)
    early = signed(AUTHOR, tombstone(AUTHOR, "author", *NAMED[1:3], at_us=1), before=last)
    async with up(tmp_path) as peer:
        await peer.feeds.add_all([whole, last])
        await peer.erased()
        before = peer.feeds.bodies.lacking
        await peer.feeds.add(early)
        lacking = [(each.sequence, each.cid) for each in peer.feeds.bodies.lacking]
        filled = await peer.feeds.add(whole)
        after = peer.feeds.bodies.lacking
        held = [each for bundle in bundles_of(peer.feeds) for each in bundle.records]

    assert before == []
    assert lacking == [(1, NAMED[0])]
    assert filled.name == "FILLED"
    assert after == []
    assert marked(AUTHOR).encode() in held


async def test_what_of_a_fork_was_erased_is_wanted_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 2)
    whole, other = signed(AUTHOR, marked(AUTHOR)), signed(AUTHOR, record(AUTHOR, 9))
    late = tombstone(AUTHOR, "author", NAMED[0], number=1, at_us=9)
    last = signed(AUTHOR, late, before=whole)
    early = signed(AUTHOR, tombstone(AUTHOR, "author", *NAMED[1:3], at_us=1), before=last)
    async with up(tmp_path) as peer:
        await peer.feeds.add_all([whole, other, last])
        await peer.erased()
        await peer.feeds.add(early)
        bodies = peer.feeds.bodies
        absent = [dict(bodies.absent_from(each.header, each.cid)) for each in (whole, other)]

    assert absent == [{0: NAMED[0]}, {}]


async def test_what_an_author_leaves_wanted_takes_nobody_elses_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names too many with earlier tombstones, once bundles came without what later ones name."""
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 6)
    monkeypatch.setattr("peer.absences.MAX_ABSENT_OF_FEED", 2)
    monkeypatch.setattr("peer.absences.MAX_ABSENT_BODIES", 4)
    taken = [record(AUTHOR, number) for number in range(6)]
    late = tombstone(AUTHOR, "author", *map(cid_of, taken), at_us=9)
    early = tombstone(
        AUTHOR, "author", *(cid_of(record(AUTHOR, n)) for n in range(10, 16)), at_us=1
    )
    said = signed(AUTHOR, late)
    bare = signed(AUTHOR, *taken, before=said)
    others = signed(OPERATOR, record(OPERATOR, 1), record(OPERATOR, 2))
    async with up(tmp_path) as peer:
        outcomes = [await peer.feeds.add(each) for each in (said, without(bare, *range(6)))]
        wanted = [peer.feeds.bodies.lacking_count]
        outcomes.append(await peer.feeds.add(signed(AUTHOR, early, before=bare)))
        wanted.append(peer.feeds.bodies.lacking_count)
        outcomes.append(await peer.feeds.add(without(others, 0, 1)))
        outcomes.append(await peer.feeds.add(bare))
        wanted.append(peer.feeds.bodies.lacking_count)

    assert [each.name for each in outcomes] == ["NEW", "NEW", "NEW", "NEW", "FILLED"]
    assert wanted == [0, 6, 2]


async def test_a_certificate_that_is_only_kept_makes_all_count_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.tombstone.MAX_REDACTIONS_OF_AUTHOR", 1)
    said = signed(
        OPERATOR, *(tombstone(OPERATOR, "aggregator", NAMED[n], number=n) for n in (1, 2))
    )
    async with up(tmp_path) as peer:
        await peer.feeds.add(said)
        shown = certificate(OPERATOR, AGGREGATOR)
        await peer.redactor.journal.append(Entry.KEPT, shown.encode())
    async with up(tmp_path, erases=False) as peer:
        counted = [peer.feeds.bodies.redactions.of(cid) is not None for cid in NAMED[1:3]]

    assert counted == [True, True]
