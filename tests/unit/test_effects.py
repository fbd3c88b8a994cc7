"""Randomness: what is given out once is never given out again."""

import secrets

import pytest

from peer.effects import Tokens


def test_no_two_tokens_are_alike_whatever_their_size():
    tokens = Tokens()
    sizes = [8, 16] * 500

    taken = [tokens.take(size) for size in sizes]

    assert [len(token) for token in taken] == sizes
    assert len(set(taken)) == len(taken)
    assert tokens.take(0) == b""


def test_secrets_never_lie_ready_and_small_tokens_come_many_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[int] = []
    ask = secrets.token_bytes
    monkeypatch.setattr(secrets, "token_bytes", lambda size: asked.append(size) or ask(size))
    tokens = Tokens()

    for size in (32, 32, 8, 8, 8):
        tokens.take(size)

    assert asked == [32, 32, 8 * 64]
