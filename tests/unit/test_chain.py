from __future__ import annotations

import itertools
import random
import time

from hypothesis import given, strategies as st

from protocols.chain import Chain, Dropped, Link, Run, merge, state_root
from protocols.cid import CID
from protocols.feed import Bundle, Place
from tests.support.feeds import after, bundle, chain_of, key

AUTHOR = key(1)


def _forest() -> list[Bundle]:
    """Two feeds, one of which forks twice: at a range and by an unlinked successor."""
    trunk = chain_of(AUTHOR, 8)
    branch = [after(trunk[2], count=2, marker=1)]
    branch.append(after(branch[0], count=7, marker=1))
    stray = bundle(AUTHOR, Place(1, 12, CID.of(b"never seen")), marker=2)
    return [*trunk, *branch, stray, *chain_of(key(2), 5), *chain_of(AUTHOR, 2, epoch=2)]


FOREST = _forest()


def _chains(bundles: list[Bundle]) -> dict[tuple[bytes, int], Chain]:
    chains: dict[tuple[bytes, int], Chain] = {}
    for offset, made in enumerate(bundles):
        chain = chains.setdefault((made.header.feed, made.header.epoch), Chain())
        if chain.find(made.header.first_sequence, made.cid.digest) is None:
            chain.add(Link.of(made.header, made.cid.digest, offset))
    return chains


def _chain(bundles: list[Bundle]) -> Chain:
    (chain,) = _chains(bundles).values()
    return chain


subsets = st.lists(st.sampled_from(range(len(FOREST))), max_size=40)


def test_a_feed_of_which_everything_was_damaged_is_one_of_which_nothing_came() -> None:
    chains = _chains(chain_of(key(1), 1))
    [chain] = chains.values()

    chain.remove(next(iter(chain)))

    assert state_root(chains) == state_root({})


@given(subsets, st.randoms(use_true_random=False))
def test_the_state_root_does_not_depend_on_order_or_repetition(
    chosen: list[int], rng: random.Random
) -> None:
    bundles = [FOREST[index] for index in chosen]
    shuffled = bundles + bundles[: len(bundles) // 2]
    rng.shuffle(shuffled)

    assert state_root(_chains(shuffled)) == state_root(_chains(bundles))


@given(subsets, subsets)
def test_the_state_root_does_not_depend_on_how_the_set_was_split(
    one: list[int], other: list[int]
) -> None:
    first, second = ([FOREST[index] for index in chosen] for chosen in (one, other))

    assert state_root(_chains(first + second)) == state_root(_chains(second + first))


@given(subsets, subsets)
def test_different_sets_have_different_state_roots(one: list[int], other: list[int]) -> None:
    roots = [state_root(_chains([FOREST[index] for index in chosen])) for chosen in (one, other)]

    assert (roots[0] == roots[1]) == (set(one) == set(other))


@given(subsets)
def test_incremental_answers_are_those_of_a_chain_built_in_order(chosen: list[int]) -> None:
    grown = _chains([FOREST[index] for index in chosen])
    built = _chains([FOREST[index] for index in sorted(chosen)])

    for key_, chain in grown.items():
        chain.runs()
        other = built[key_]
        assert (chain.runs(), chain.holes(), chain.is_forked) == (
            other.runs(),
            other.holes(),
            other.is_forked,
        )


def test_an_unbroken_feed_is_one_run_without_holes() -> None:
    bundles = chain_of(AUTHOR, 4)
    chain = _chain(bundles)

    assert chain.runs() == [Run(0, 12, bundles[-1].cid.digest)]
    assert chain.ranges() == [(0, 12)]
    assert chain.holes() == []
    assert chain.next_sequence == chain.whole_up_to == 12
    assert not chain.is_forked


def test_what_is_missing_shows_as_holes_until_it_comes() -> None:
    bundles = chain_of(AUTHOR, 5)
    chain = _chain([bundles[1], bundles[4]])

    before = chain.holes()
    for made in (bundles[3], bundles[0], bundles[2]):
        chain.add(Link.of(made.header, made.cid.digest, 0))

    assert before == [(0, 3), (6, 12)]
    assert chain.whole_up_to == 15
    assert chain.holes() == []
    assert len(chain.runs()) == 1


def test_what_lacks_bodies_counts_only_from_where_one_asks() -> None:
    bundles = chain_of(AUTHOR, 6)
    chain = _chain([bundles[0], *bundles[3:]])
    chain.lacking = {bundles[0].cid.digest: 1, bundles[5].cid.digest: 16}

    assert chain.whole_up_to == 1
    assert chain.whole_from(9) == 16


def test_what_is_not_held_any_more_lacks_nothing() -> None:
    bundles = chain_of(AUTHOR, 4)
    chain = _chain(bundles)
    chain.lacking = {made.cid.digest: made.header.first_sequence for made in bundles}

    chain.drop(Dropped(6, bundles[1].cid.digest, b""))
    chain.remove(next(iter(chain)))

    assert chain.lacking == {bundles[3].cid.digest: 9}


def test_all_but_the_last_below_the_acknowledged_place_may_go_though_some_never_came() -> None:
    bundles = chain_of(AUTHOR, 6)
    chain = _chain([bundles[1], bundles[3], bundles[4]])

    assert [link.first_sequence for link in chain.droppable(15)] == [3, 9]
    assert [link.first_sequence for link in chain.droppable(11)] == [3]
    assert chain.droppable(5) == []

    chain.drop(Dropped(12, bundles[3].cid.digest, b""))
    assert chain.runs() == [Run(0, 15, bundles[4].cid.digest)]
    assert chain.holes() == []


def test_bundles_outside_the_ranges_of_another_are_those_that_it_lacks() -> None:
    bundles = chain_of(AUTHOR, 5)
    chain = _chain(bundles)

    lacking = chain.outside([(0, 3), (5, 9), (12, 15)])

    assert [link.first_sequence for link in lacking] == [3, 9]
    assert chain.outside([(0, 15)]) == []
    assert len(chain.outside([])) == 5


def test_two_headers_over_one_range_are_a_fork() -> None:
    chain = _chain([bundle(AUTHOR)])
    rival = bundle(AUTHOR, marker=1)

    found = chain.add(Link.of(rival.header, rival.cid.digest, 7))

    assert found is not None
    assert found.digest == bundle(AUTHOR).cid.digest
    assert chain.is_forked


def test_a_successor_that_names_another_predecessor_is_a_fork() -> None:
    first, rival = bundle(AUTHOR), bundle(AUTHOR, marker=1)

    assert _chain([first, after(rival)]).is_forked
    assert _chain([after(rival), first]).is_forked


def test_a_run_is_covered_only_by_the_same_bundles() -> None:
    trunk = chain_of(AUTHOR, 4)
    branch = [trunk[0], after(trunk[0], marker=1)]
    branch.append(after(branch[1], marker=1))
    whole = Run(0, 12, trunk[3].cid.digest)
    other = Run(0, 9, branch[2].cid.digest)

    assert _chain(trunk).covers(whole)
    assert not _chain(trunk).covers(other)
    assert not _chain(trunk[1:]).covers(whole)
    assert not _chain([*trunk[:1], *trunk[2:]]).covers(whole)
    both = _chain([*trunk, *branch[1:]])
    assert both.covers(whole)
    assert both.covers(other)
    assert not _chain([*trunk, branch[2]]).covers(other)


def test_a_feed_of_many_islands_costs_no_more_for_each() -> None:
    islands = [Link(2 * at + 1, 2 * at + 2, at.to_bytes(32), b"", 0) for at in range(20_000)]
    chain = Chain()
    started = time.process_time()

    for island in islands:
        chain.add(island)
        chain.covers(Run(1, 2, islands[0].digest))

    assert len(chain.runs()) == 20_000
    assert chain.whole_up_to == 0
    assert time.process_time() - started < 2  # seconds; it was a minute when each looked at all


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda r: (min(r), max(r)))))
def test_merged_ranges_cover_the_same_numbers(ranges: list[tuple[int, int]]) -> None:
    merged = merge(ranges)

    numbers = {number for first, end in ranges for number in range(first, end)}
    assert {number for first, end in merged for number in range(first, end)} == numbers
    assert all(one[1] < two[0] for one, two in itertools.pairwise(merged))
