from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_FRAME_BYTES
from protocols.transport.framing import FrameDecoder, FrameEncoder


def decode(wire: bytes, cuts: list[int]) -> FrameDecoder:
    decoder = FrameDecoder()
    edges = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    for start, end in pairwise(edges):
        decoder.feed(wire[start:end])
    return decoder


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(0, 3_000)))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    frames: list[bytes], cuts: list[int]
):
    encoder = FrameEncoder()
    wire = b"".join(map(encoder.encode, frames)) + encoder.end()

    decoder = decode(wire, cuts)

    assert list(decoder.frames) == frames
    assert decoder.is_ended


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1), st.integers(0, 10_000))
def test_a_stream_cut_short_never_looks_ended(frames: list[bytes], cut: int):
    encoder = FrameEncoder()
    wire = b"".join(map(encoder.encode, frames)) + encoder.end()

    decoder = decode(wire[: min(cut, len(wire) - 1)], [])

    assert not decoder.is_ended
    assert list(decoder.frames) == frames[: len(decoder.frames)]


@given(st.binary(max_size=2_000))
def test_any_bytes_decode_or_are_the_peers_error(wire: bytes):
    decoder = FrameDecoder()
    try:
        decoder.feed(wire)
    except RemoteProtocolError:
        return
    assert all(decoder.frames)


def test_an_end_that_does_not_match_its_frames_is_the_peers_error():
    missing_one = FrameEncoder()
    missing_one.encode(b"lost on the way")

    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed(FrameEncoder().encode(b"seen") + missing_one.end())


def test_bytes_after_the_end_are_the_peers_error():
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed(FrameEncoder().end() + b"\x00")


def test_an_announced_length_over_the_limit_is_refused_before_its_bytes_come():
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("frame", [b"", bytes(MAX_FRAME_BYTES + 1)])
def test_a_frame_of_a_bad_size_is_our_own_error_and_does_not_touch_the_digest(frame: bytes):
    encoder = FrameEncoder()

    with pytest.raises(LocalProtocolError):
        encoder.encode(frame)

    assert encoder.end() == FrameEncoder().end()
