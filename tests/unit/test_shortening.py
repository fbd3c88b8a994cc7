from __future__ import annotations

from hypothesis import given, strategies as st

from node.shortening import shortened


def test_a_sentence_is_cut_between_words_and_says_so() -> None:
    assert shortened("looked for kind embed; 12D3KooWabc: busy", 30) == "looked for kind embed…"
    assert shortened("short", 5) == "short"
    assert shortened("x" * 50, 10) == "x" * 9 + "…"


@given(st.text(), st.integers(1, 80))
def test_it_always_fits(text: str, chars: int) -> None:
    assert len(shortened(text, chars)) <= chars
