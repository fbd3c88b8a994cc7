"""Frames between the daemon and a runner."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from node.runner.messages import (
    FROM_RUNNER,
    TO_RUNNER,
    Cancel,
    Failed,
    FrameBuffer,
    Input,
    Output,
    Run,
    frames,
    pieces,
)
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_FRAME_BYTES, RUNNER_PIECE_BYTES
from protocols.report import ExceptionInfo, Frame
from protocols.wire import LENGTH


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(st.integers(1, 1 << 40).map(Cancel), min_size=1, max_size=20), st.integers(1, 50))
def test_messages_arrive_however_their_bytes_were_cut(sent: list[Cancel], cut: int):
    stream = b"".join(frames(TO_RUNNER, sent)) * 2
    buffer = FrameBuffer()

    received = [
        message
        for start in range(0, len(stream), cut)
        for payload in buffer.feed(stream[start : start + cut])
        for message in TO_RUNNER.decode(payload)
    ]

    assert received == sent * 2


def test_a_large_input_crosses_in_frames_within_the_limit():
    content = bytes(range(256)) * (3 * RUNNER_PIECE_BYTES // 256) + b"end"
    first, *rest = pieces(content)

    sent = list(frames(TO_RUNNER, [Run(1, len(content), first), *(Input(1, p) for p in rest)]))

    assert all(len(frame) <= LENGTH.size + MAX_FRAME_BYTES for frame in sent)
    received = [m for frame in sent for m in TO_RUNNER.decode(frame[LENGTH.size :])]
    assert b"".join(m.piece for m in received if isinstance(m, Run | Input)) == content


def test_nothing_is_one_empty_piece():
    assert list(pieces(b"")) == [b""]


def test_the_longest_chain_of_exceptions_fits_a_frame():
    frame = Frame(module="é" * 128, function="é" * 128, line=1 << 31)
    longest = ExceptionInfo(
        type="é" * 128, module="é" * 128, value="é" * 2_000, frames=(frame,) * 100
    )
    failed = Failed(1, "job-failed", "é" * 1_024, (longest,) * 6)

    piece = Output(2, bytes(RUNNER_PIECE_BYTES))

    sent = frames(FROM_RUNNER, [piece, piece, failed, piece])

    received = [FROM_RUNNER.decode(frame[LENGTH.size :]) for frame in sent]
    assert received == [[piece], [piece], [failed], [piece]]


def test_a_frame_over_the_limit_is_refused_before_it_is_gathered():
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        list(FrameBuffer().feed(LENGTH.pack(MAX_FRAME_BYTES + 1)))
