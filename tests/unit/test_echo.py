from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from protocols import echo
from protocols.echo import Allowance, Tag
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_ECHO_BYTES


@given(st.integers(0, 1 << 20))
def test_bulk_has_as_many_bytes_as_asked_for(count: int) -> None:
    frames = [echo.read(frame) for frame in echo.sinks(count)]

    assert sum(frame.size for frame in frames) == count
    assert all(frame.tag is Tag.SINK for frame in frames)


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_survive(number: int) -> None:
    assert echo.read(echo.mark(number)) == (Tag.MARK, number, 0)
    assert echo.read(echo.source(number)) == (Tag.SOURCE, number, 0)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_frame_or_break_the_protocol(content: bytes) -> None:
    try:
        frame = echo.read(content)
    except RemoteProtocolError:
        return
    assert frame.tag == content[0]
    assert frame.size in (0, len(content) - 1)


def test_a_frame_that_is_too_large_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError):
        echo.read(bytes((Tag.SINK,)) + bytes(echo.PAYLOAD_BYTES + 1))


def test_a_stream_carries_so_much_and_no_more() -> None:
    allowance = Allowance()
    allowance.take(MAX_ECHO_BYTES)

    with pytest.raises(RemoteProtocolError):
        allowance.take(1)
