"""The beginning of an output, told once although its job may run again."""

from __future__ import annotations

import pytest

from node.told_pieces import ToldPieces
from protocols.errors import JobFailed


def test_a_second_run_tells_only_what_is_new():
    heard: list[bytes] = []
    told = ToldPieces(heard.append)
    for run in ([b"ab", b"cd"], [b"abc", b"d", b"", b"ef"], [b"abcdefg"]):
        told.begin()
        for piece in run:
            told.add(piece)

    told.check(b"abcdefgh")

    assert heard == [b"ab", b"cd", b"ef", b"g"]


def test_a_second_run_that_says_something_else_fails_the_job():
    told = ToldPieces(lambda _piece: None)
    told.add(b"abc")
    told.begin()

    with pytest.raises(JobFailed) as caught:
        told.add(b"abX")
    with pytest.raises(JobFailed):
        told.check(b"ab")

    assert caught.value.code == "runner-diverged"
