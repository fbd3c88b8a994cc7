"""An aggregator is held to what it acknowledged and vouched for."""

from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

from protocols.chain import Chain, Dropped, Range
from protocols.checkpoint import (
    CHECKPOINT_KIND,
    HEADS_KIND,
    HEADS_ROLE,
    Checkpoint,
    heads_blocks,
)
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.feed import Bundle, Head
from protocols.limits import MAX_OWED_RANGES, MAX_TOLD_FAULTS
from protocols.vouching import Judged, Own, Place, Told, Vouched, Watched, judge
from tests.support.feeds import chain_of, key
from tests.support.home import Author
from tests.support.members import key_of
from tests.support.vouching import add_checkpoint, chain_holding, head_of

T = TypeVar("T")

OWN = key(1)
FEED = OWN.public
BUNDLES = chain_of(OWN, 4)  # three records each
WHOLE = {(FEED, 1): chain_holding(BUNDLES)}


class Aggregator:
    """One whose checkpoints a node judges."""

    def __init__(self) -> None:
        self.author = Author(key_of(9))
        self.told = Told(FEED)
        self.known: Watched | None = None
        self.signed: Place | None = (1, 12)

    def vouch(self, *heads: Head, is_block_told: bool = False) -> Vouched:
        made = self.told.take(add_checkpoint(self.author, heads, is_block_told=is_block_told))
        assert made is not None
        return made

    def judged(
        self,
        fresh: Vouched,
        chains: dict[tuple[bytes, int], Chain] = WHOLE,
        **promised: Range,
    ) -> Judged | None:
        by_epoch = {int(name[1:]): ranges for name, ranges in promised.items()}
        judged = judge(self.known, fresh, Own(FEED, chains, self.signed), by_epoch)
        self.known = judged.watched if judged else self.known
        return judged

    def faults(self, *heads: Head, **promised: Range) -> tuple[str, ...]:
        judged = self.judged(self.vouch(*heads), **promised)
        assert judged is not None
        return judged.watched.faults


def test_a_checkpoint_that_holds_more_than_the_one_before_is_consistent() -> None:
    aggregator = Aggregator()

    found = [aggregator.faults(head_of(*BUNDLES[:count])) for count in (1, 2, 4)]

    assert found == [(), (), ()]
    assert aggregator.known is not None
    assert aggregator.known.owed == {"1": ((0, 12),)}
    assert aggregator.known.last.heads_of(FEED) == [head_of(*BUNDLES)]
    assert aggregator.known.before is None


def test_what_was_vouched_for_and_is_gone_is_named_until_it_is_back() -> None:
    aggregator = Aggregator()
    aggregator.faults(head_of(*BUNDLES))
    first = aggregator.known

    [lost] = aggregator.faults(head_of(*BUNDLES[:2]))
    between = aggregator.known
    hole = aggregator.faults(head_of(*BUNDLES[:1]), head_of(*BUNDLES[2:]))
    back = aggregator.faults(head_of(*BUNDLES))

    assert "records 0 to 11 of our epoch 1" in lost
    assert between is not None
    assert first is not None
    assert between.before == first.last, "both are kept: together they prove it"
    assert len(hole) == 1
    assert back == ()


def test_what_was_acknowledged_must_be_in_the_checkpoint_after_the_next() -> None:
    """The next one may have been made before the acknowledgement, and told after it."""
    honest, forgetful = Aggregator(), Aggregator()

    for each in (honest, forgetful):
        assert each.faults(head_of(*BUNDLES[:1]), e1=(0, 12)) == ()

    assert honest.faults(head_of(*BUNDLES), e1=(0, 12)) == ()
    assert len(forgetful.faults(head_of(*BUNDLES[:1]))) == 1


def test_an_acknowledgement_of_a_part_is_held_to_that_part() -> None:
    aggregator = Aggregator()
    aggregator.faults(e1=(3, 12))

    assert aggregator.faults(head_of(*BUNDLES[1:])) == ()


def test_two_checkpoints_at_one_place_are_two_histories() -> None:
    aggregator, twin = Aggregator(), Aggregator()
    aggregator.faults(head_of(*BUNDLES))

    other = aggregator.judged(twin.vouch(head_of(*BUNDLES[:1])))

    assert other is not None
    assert "signed two checkpoints at one place" in other.watched.faults[0]


def test_an_older_checkpoint_and_the_same_one_again_are_no_news() -> None:
    aggregator = Aggregator()
    older, newer = aggregator.vouch(), aggregator.vouch(head_of(*BUNDLES))

    assert aggregator.judged(newer) is not None
    assert aggregator.judged(newer) is None
    assert aggregator.judged(older) is None


def test_a_history_that_we_did_not_sign_is_named() -> None:
    forged = chain_of(OWN, 1, count=6)
    aggregator = Aggregator()

    assert "not under the header that we signed" in aggregator.faults(head_of(*forged))[0]


@pytest.mark.parametrize("chains", [{}, {(FEED, 1): chain_holding(BUNDLES[:1])}])
def test_what_we_lost_ourselves_is_no_fault_of_an_aggregator(
    chains: dict[tuple[bytes, int], Chain],
) -> None:
    aggregator = Aggregator()

    judged = aggregator.judged(aggregator.vouch(head_of(*BUNDLES)), chains)

    assert judged is not None
    assert judged.watched.faults == ()


def test_what_was_dropped_here_is_compared_by_its_last_header() -> None:
    def dropped(digest: bytes) -> dict[tuple[bytes, int], Chain]:
        chain = chain_holding(BUNDLES)
        chain.drop(Dropped(6, digest, b""))
        return {(FEED, 1): chain}

    heads = [head_of(*BUNDLES[:count]) for count in (1, 2, 4)]
    found: list[bool] = []
    for digest in (BUNDLES[1].cid.digest, bytes(32)):
        aggregator = Aggregator()
        for head in heads:
            judged = aggregator.judged(aggregator.vouch(head), dropped(digest))
            assert judged is not None
            found.append(bool(judged.watched.faults))

    assert found == [False, False, False, False, True, False]


def test_a_block_that_did_not_change_is_told_only_once() -> None:
    aggregator = Aggregator()
    aggregator.judged(aggregator.vouch(head_of(*BUNDLES)))

    again = aggregator.judged(aggregator.vouch(head_of(*BUNDLES), is_block_told=True))

    assert again is not None
    assert again.watched.faults == ()


def test_a_checkpoint_told_again_with_its_block_is_the_same_one() -> None:
    """What is said of it is what was said, but for what the block bears out."""
    aggregator, author = Aggregator(), Author(key_of(9))
    [listed] = heads_blocks([head_of(*BUNDLES[:2])])
    first = add_checkpoint(author, [head_of(*BUNDLES[:2])])
    aggregator.judged(unwrap(aggregator.told.take(first)))
    cid = author.add_block(HEADS_KIND, **listed)
    author.records.pop()
    author.add("tick")
    said = Checkpoint(state_root=CID.of(b"root"), heads=1, records=1).to_attributes()
    author.add(CHECKPOINT_KIND, used=((cid, HEADS_ROLE),), attributes=said)
    second = author.cut()
    unread, whole = Told(FEED), Told(FEED)
    whole.take(first)

    lacking = unwrap(aggregator.judged(unwrap(unread.take(second)), e1=(0, 12)))
    borne_out = unwrap(aggregator.judged(unwrap(whole.take(second)), e1=(0, 12)))
    again = aggregator.judged(unwrap(unread.take(second)))

    assert (lacking.is_news, len(lacking.watched.faults)) == (True, 1)
    assert (borne_out.is_news, borne_out.watched.faults) == (False, ())
    assert borne_out.watched.before is None
    assert borne_out.watched.last.heads_of(FEED) == [head_of(*BUNDLES[:2])]
    assert again is None, "a telling without the block takes nothing back"

    later = add_checkpoint(author, [head_of(*BUNDLES[:2])])
    held_to_more = unwrap(aggregator.judged(unwrap(whole.take(later))))
    assert "records 0 to 11" in held_to_more.watched.faults[0], "from the next one on"


def test_a_checkpoint_that_stands_anew_further_on_is_another() -> None:
    aggregator = Aggregator()
    aggregator.judged(aggregator.vouch(), e1=(0, 12))
    author = aggregator.author
    author.records.append(author.records[-1])

    judged = unwrap(aggregator.judged(unwrap(aggregator.told.take(author.cut()))))

    assert len(judged.watched.faults) == 1


def unwrap(found: T | None) -> T:
    assert found is not None
    return found


def head_at(epoch: int, first: int, end: int) -> Head:
    return Head(FEED, epoch, first, end, CID.of(b"header"))


@pytest.mark.parametrize(("epoch", "end"), [(1, 13), (2, 1)])
def test_what_we_never_signed_is_a_fault_and_nothing_to_be_held_to(epoch: int, end: int) -> None:
    aggregator = Aggregator()

    [made_up] = aggregator.faults(head_of(*BUNDLES), head_at(epoch, 0, end))

    assert f"record {end - 1} of our epoch {epoch}, and we signed none" in made_up
    assert unwrap(aggregator.known).owed == {"1": ((0, 12),)}


def test_another_instance_of_our_key_may_have_signed_further() -> None:
    aggregator = Aggregator()
    aggregator.signed = None

    assert aggregator.faults(head_of(*BUNDLES), head_at(2, 0, 1)) == ()


def test_of_an_epoch_no_more_is_owed_than_we_signed_of_it() -> None:
    aggregator = Aggregator()
    aggregator.signed = (2, 0)

    aggregator.faults(head_at(1, 3, 1_000), head_at(1, 2_000, 3_000))

    assert unwrap(aggregator.known).owed == {"1": ((3, 12),)}


def test_however_much_an_aggregator_makes_up_what_it_is_held_to_fits_its_file() -> None:
    aggregator = Aggregator()
    aggregator.signed = (10_000, 0)
    aggregator.faults(head_of(*BUNDLES))
    for number in range(4):
        epochs = range(2 + number * 500, 502 + number * 500)
        aggregator.faults(head_of(*BUNDLES), *(head_at(epoch, 1, 2) for epoch in epochs))
        aggregator.faults(head_of(*BUNDLES), *(head_at(2, 2 * at, 2 * at + 1) for at in epochs))
    known = unwrap(aggregator.known)

    assert sum(map(len, known.owed.values())) == MAX_OWED_RANGES
    assert known.owed["1"] == ((0, 12),), "what we hold comes first"
    assert len(known.faults) == MAX_TOLD_FAULTS, known.fault_count
    assert known.fault_count > MAX_TOLD_FAULTS
    assert Watched.decode(known.encode()) == known


def test_blocks_that_say_nothing_of_our_feed_are_not_kept() -> None:
    theirs = chain_of(key(2), 1)

    assert Aggregator().vouch(head_of(*theirs)).blocks == ()


def test_the_same_faults_are_news_once() -> None:
    aggregator = Aggregator()
    aggregator.faults(head_of(*BUNDLES))

    judged = [aggregator.judged(aggregator.vouch()) for _ in range(2)]

    assert [each.is_news for each in judged if each] == [True, False]


def test_what_is_kept_survives_the_round_trip() -> None:
    aggregator = Aggregator()
    aggregator.faults(head_of(*BUNDLES))
    aggregator.faults()
    known = aggregator.known
    assert known is not None

    assert Watched.decode(known.encode()) == known
    assert known.before is not None
    assert known.before.place < known.last.place


@given(st.binary(max_size=100))
def test_any_other_bytes_are_refused(encoded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Watched.decode(encoded)


def test_a_checkpoint_that_says_nothing_is_refused() -> None:
    author = Author(key_of(9))
    author.add("state.checkpoint")
    bundle: Bundle = author.cut()

    with pytest.raises(RemoteProtocolError):
        Told(FEED).take(bundle)
