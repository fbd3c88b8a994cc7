import math

import pytest

from node.doubts import DISPUTED, MOST, OUTVOTED, Doubts
from protocols.limits import MAX_OBSERVED, OBSERVATION_FADE_S

KEY = ("peer", "model")


def test_who_was_outvoted_keeps_a_twentieth_and_who_was_disputed_half():
    doubts = Doubts()
    doubts.add(KEY, OUTVOTED, 0.0)
    doubts.add(("other", "model"), DISPUTED, 0.0)

    assert doubts.share(KEY, 0.0) == pytest.approx(0.05, abs=0.001)
    assert doubts.share(("other", "model"), 0.0) == pytest.approx(0.5, abs=0.01)
    assert doubts.share(("peer", "another model"), 0.0) == 1.0


def test_doubts_fade_until_nothing_is_left():
    doubts = Doubts()
    doubts.add(KEY, OUTVOTED, 0.0)

    shares = [doubts.share(KEY, now) for now in range(0, 6_000, 60)]

    assert shares == sorted(shares)
    assert shares[10] == pytest.approx(math.exp(-OUTVOTED / math.e), rel=0.01)
    assert doubts.share(KEY, 10 * OBSERVATION_FADE_S) == 1.0


def test_doubts_add_up_to_a_limit():
    doubts = Doubts()
    for _ in range(100):
        doubts.add(KEY, OUTVOTED, 0.0)

    assert doubts.share(KEY, 0.0) == pytest.approx(math.exp(-MOST))


def test_so_many_peers_are_remembered():
    doubts = Doubts()
    for number in range(MAX_OBSERVED + 1):
        doubts.add((f"peer{number}", "model"), OUTVOTED, 0.0)

    assert doubts.share(("peer0", "model"), 0.0) == 1.0
    assert doubts.share(("peer1", "model"), 0.0) < 1.0
