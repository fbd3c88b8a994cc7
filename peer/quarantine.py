"""Which held bundles lie in damaged bytes of the journal, so that nobody goes on believing in them.

A bundle of another feed is one journal entry. One of our own is a header and records that lie
apart: damage to any of them breaks it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping

from protocols.chain import Chain, Link, merge
from protocols.journal import Damage

FeedEpoch = tuple[bytes, int]


def damaged_links(
    chains: Mapping[FeedEpoch, Chain],
    own_records: Mapping[int, array[int]],
    is_damaged: Callable[[int], bool],
) -> list[tuple[FeedEpoch, Link]]:
    """Return every held bundle of which an entry ``is_damaged``; ``own_records`` has, by the
    place of a header of ours, the places of its records.
    """
    return [
        (key, link)
        for key, chain in chains.items()
        for link in chain
        if is_damaged(link.offset) or any(map(is_damaged, own_records.get(link.offset, ())))
    ]


def within(damage: Iterable[Damage]) -> Callable[[int], bool]:
    """Return what says of an entry's place whether it begins in damaged bytes."""
    ranges = merge((each.offset, each.end_offset) for each in damage)
    starts = [start for start, _ in ranges]

    def is_damaged(offset: int) -> bool:
        at = bisect_right(starts, offset) - 1
        return at >= 0 and offset < ranges[at][1]

    return is_damaged
