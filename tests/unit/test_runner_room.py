"""Which idle runners end for another one, and what it may have."""

from __future__ import annotations

import pytest

from node.runner_room import Capacity, Holder, Memory, NoRoom, Room, needed_bytes, room_for
from protocols.limits import MAX_KV_CACHE_BYTES
from tests.support.runners import model_of

GIB = 1 << 30


def idle(need: int, since: float = 0.0, *, taken: int | None = None) -> Holder:
    return Holder(need, need, need if taken is None else taken, True, since)


def busy(need: int, *, taken: int | None = None) -> Holder:
    return Holder(need, need, need if taken is None else taken, False, 0.0)


def room(
    need: int,
    *holders: Holder,
    limit: int | None = 8 * GIB,
    free: int | None = 8 * GIB,
    most: int = 4,
) -> Room | NoRoom:
    return room_for(need, holders, Capacity(most, lambda: Memory(limit, free)))


def test_the_first_runner_gets_an_even_share_or_what_it_needs() -> None:
    assert room(GIB) == Room(2 * GIB)
    assert room(3 * GIB) == Room(3 * GIB)
    assert room(GIB, limit=None, free=None) == Room(0)


def test_runners_are_never_granted_more_than_there_is_together() -> None:
    assert room(GIB, busy(4 * GIB), busy(3 * GIB)) == Room(GIB)
    assert room(2 * GIB, busy(4 * GIB), idle(3 * GIB)) == Room(2 * GIB, (1,))


def test_idle_runners_end_in_the_order_of_their_last_use_and_no_more_than_must() -> None:
    holders = (idle(GIB, 3.0), idle(GIB, 1.0), busy(GIB), idle(GIB, 2.0))

    assert room(GIB, *holders) == Room(2 * GIB, (1,))
    assert room(2 * GIB, *holders, free=GIB // 2) == Room(2 * GIB, (1, 3))


def test_what_a_runner_has_not_taken_yet_is_promised_to_it() -> None:
    assert room(2 * GIB, busy(3 * GIB, taken=GIB), free=4 * GIB) == Room(2 * GIB)
    assert isinstance(room(2 * GIB, busy(3 * GIB, taken=GIB), free=3 * GIB), NoRoom)


@pytest.mark.parametrize("free", [GIB, 8 * GIB])
def test_a_runner_waits_for_those_that_work(free: int) -> None:
    found = room(2 * GIB, *[busy(2 * GIB)] * 4, free=free)

    assert isinstance(found, NoRoom)
    assert not found.is_lasting


def test_what_never_fits_is_refused_for_good_and_nothing_ends_for_it() -> None:
    for found in (room(9 * GIB, idle(GIB)), room(3 * GIB, idle(GIB), free=GIB)):
        assert isinstance(found, NoRoom)
        assert found.is_lasting


def test_a_model_takes_more_in_a_wider_precision_and_a_language_model_room_for_its_keys() -> None:
    embedder, writer = model_of("m"), model_of("w", "generate")

    assert needed_bytes(model_of("n", "bench.noop"), "none", 1) < 128 << 20
    assert needed_bytes(embedder, "fp32", 8) > needed_bytes(embedder, "fp32", 1)
    assert needed_bytes(writer, "fp32", 1) >= needed_bytes(embedder, "fp32", 1) + MAX_KV_CACHE_BYTES
