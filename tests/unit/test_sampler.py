"""Choosing a token: a pure function of logits, seed and place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from node.runner.kinds import BadOutputError
from node.runner.sampler import Sampling, choose, uniform
from node.runner.stopping import StopText

LIKELY = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def shares(sampling: Sampling, logits: np.ndarray = LIKELY, trials: int = 4_000) -> list[float]:
    chosen = [choose(logits, sampling, 0, place) for place in range(trials)]
    return [chosen.count(token) / trials for token in range(len(logits))]


def test_without_temperature_the_likeliest_token_is_chosen_whatever_the_seed():
    assert {choose(LIKELY, Sampling(seed=seed), 0, 0) for seed in range(50)} == {0}


def test_tokens_are_chosen_as_often_as_they_are_likely():
    assert shares(Sampling(temperature=1.0)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_lower_temperature_favours_the_likely():
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])

    assert shares(Sampling(temperature=0.5)) == pytest.approx(squares / squares.sum(), abs=0.03)


def test_top_p_leaves_the_unlikely_out():
    kept = shares(Sampling(temperature=1.0, top_p=0.75))

    assert kept[2:] == [0, 0]
    assert kept[:2] == pytest.approx([0.625, 0.375], abs=0.03)


def test_the_likeliest_token_is_always_kept():
    assert shares(Sampling(temperature=1.0, top_p=1e-9), trials=50) == [1, 0, 0, 0]


def test_seed_item_and_place_each_change_the_choice_and_nothing_else_does():
    places = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (10, 0, 0)]

    numbers = [uniform(*place) for place in places]

    assert len(set(numbers)) == len(places)
    assert uniform(7, 1, 2) == 0.1955020825855015  # on every machine


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.floats(0, 2),
    st.floats(1e-6, 1),
    st.integers(0, 1 << 52),
)
def test_some_token_is_always_chosen(
    values: list[float], temperature: float, top_p: float, seed: int
):
    logits = np.array(values, dtype=np.float32)

    token = choose(logits, Sampling(temperature, top_p, seed), 0, 0)

    assert 0 <= token < len(values)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_answer(odd: float):
    with pytest.raises(BadOutputError, match="item 3"):
        choose(np.array([0.0, odd], dtype=np.float32), Sampling(), 3, 0)


def test_text_passes_until_a_stop_text_and_its_beginning_is_held_back():
    stop = StopText(["END", "\n\n"])

    assert [stop.add(text) for text in ("a E", "N", "d E", "ND more")] == ["a ", "", "ENd ", ""]
    assert stop.is_over
    assert (stop.add("more"), stop.end()) == ("", "")


def test_what_was_held_back_in_vain_is_told_at_the_end():
    stop = StopText(["aab"])

    assert (stop.add("xaaa"), stop.end(), stop.end()) == ("xa", "aa", "")


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=3), st.data())
def test_a_stop_text_never_passes_and_nothing_before_it_is_lost(text: str, word: str, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stop = StopText([word])

    passed = "".join([stop.add(part) for part in parts]) + stop.end()

    assert passed == text.partition(word)[0]
    assert stop.is_over is (word in text)
