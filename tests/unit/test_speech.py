"""Where speech begins and ends, from likelihoods alone."""

from __future__ import annotations

from hypothesis import given, strategies as st

from node.runner.speech import Rules, Segment, segments

USUAL = Rules(threshold=0.5, min_speech_ms=250, min_silence_ms=100, pad_ms=30)
PLAIN = Rules(threshold=0.5, min_speech_ms=0, min_silence_ms=0, pad_ms=0)


def found(likely: list[float], rules: Rules, frame_ms: int = 50) -> list[Segment]:
    return segments(likely, frame_ms, frame_ms * len(likely), rules)


@given(
    st.lists(st.floats(0, 1), max_size=60),
    st.builds(Rules, st.floats(0.01, 0.99), *[st.integers(0, 300)] * 3),
)
def test_segments_are_in_order_apart_and_within_the_recording(
    likely: list[float], rules: Rules
) -> None:
    total_ms = 32 * len(likely)

    moments = [m for each in segments(likely, 32, total_ms, rules) for m in each]

    assert moments == sorted(moments)
    assert all(0 <= moment <= total_ms for moment in moments)


def test_speech_lasts_while_frames_are_likely() -> None:
    assert found([0, 1, 1, 0, 1, 0], PLAIN) == [Segment(50, 150), Segment(200, 250)]


def test_a_breath_ends_nothing_and_a_pause_does() -> None:
    assert found([1] * 6 + [0] * 2 + [1] * 6 + [0] * 3, USUAL) == [Segment(0, 730)]
    assert found([1] * 6 + [0] * 3 + [1] * 6, USUAL) == [Segment(0, 330), Segment(420, 750)]


def test_frames_a_little_below_the_threshold_go_on_and_begin_nothing() -> None:
    assert found([0.4] * 6, USUAL) == []
    assert found([0.9] + [0.4] * 9, USUAL) == [Segment(0, 500)]


def test_a_click_is_no_speech() -> None:
    assert found([0, 1, 1, 0, 0, 0], USUAL) == []


def test_speech_up_to_the_end_ends_with_the_recording() -> None:
    assert segments([0, 1, 1, 1], 50, 190, PLAIN) == [Segment(50, 190)]


def test_what_is_added_around_speech_never_reaches_its_neighbour() -> None:
    padded = Rules(threshold=0.5, min_speech_ms=0, min_silence_ms=0, pad_ms=1_000)

    assert found([0, 1, 0, 1, 0], padded) == [Segment(0, 125), Segment(125, 250)]
