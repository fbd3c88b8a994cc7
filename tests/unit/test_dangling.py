from __future__ import annotations

import pytest

from peer.dangling import Dangling, spread
from protocols.limits import MAX_DANGLING, MAX_SEEK_TRIES, SEEK_RETRY_S_MAX, SEEK_RETRY_S_MIN


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_a_record_is_due_when_its_time_has_come_and_with_who_made_it() -> None:
    sought = Dangling()
    sought.want(digest(1), 5.0, "worker")
    sought.want(digest(2), 9.0, "worker")
    sought.want(digest(3), 5.0)

    assert sought.due(4.9) == {}
    assert sought.due(5.0) == {"worker": [digest(1)], None: [digest(3)]}
    assert sought.next_at() == 5.0


def test_each_try_waits_twice_as_long_until_the_record_is_given_up() -> None:
    sought, now, pauses = Dangling(), 0.0, list[float]()
    sought.want(digest(1), now)
    while len(sought):
        sought.tried([digest(1)], now)
        if (next_at := sought.next_at()) is not None:
            pauses.append(next_at - now)
            now = next_at

    assert pauses[:3] == [SEEK_RETRY_S_MIN, 2 * SEEK_RETRY_S_MIN, 4 * SEEK_RETRY_S_MIN]
    assert max(pauses) == SEEK_RETRY_S_MAX
    assert (sought.tries, sought.given_up) == (MAX_SEEK_TRIES, 1)


def test_what_was_given_up_is_not_sought_again_before_it_was_here() -> None:
    sought = Dangling()
    sought.want(digest(1), 0.0)
    for _ in range(MAX_SEEK_TRIES):
        sought.tried([digest(1)], 0.0)

    sought.want(digest(1), 0.0)
    is_sought = len(sought) > 0
    sought.keep_only([])
    sought.want(digest(1), 0.0)

    assert not is_sought
    assert len(sought) == 1


def test_what_has_come_is_counted_once() -> None:
    sought = Dangling()
    sought.want(digest(1), 0.0)

    sought.settle([digest(1), digest(2)])
    sought.settle([digest(1)])

    assert (len(sought), sought.found) == (0, 1)


def test_wanting_again_does_not_begin_anew() -> None:
    sought = Dangling()
    sought.want(digest(1), 0.0)
    sought.tried([digest(1)], 0.0)

    sought.want(digest(1), 0.0)

    assert sought.due(0.0) == {}


def test_there_is_room_for_so_many_and_the_rest_is_counted() -> None:
    sought = Dangling()
    for number in range(MAX_DANGLING + 3):
        sought.want(digest(number), 0.0)

    assert (len(sought), sought.passed_over) == (MAX_DANGLING, 3)


@pytest.mark.parametrize(("length", "count"), [(0, 4), (3, 4), (4, 4), (5, 4), (400, 64)])
def test_a_question_names_records_from_all_over_the_list(length: int, count: int) -> None:
    digests = [digest(number) for number in range(length)]

    chosen = spread(digests, count)

    assert len(chosen) <= count
    assert chosen == digests or len(chosen) > count // 2
    assert chosen[:1] == digests[:1]
