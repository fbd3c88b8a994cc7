from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from node.upstream.sse import EventStream
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_NEW_TOKENS

TEXTS = st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"), max_size=20)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Events, and one of the forms that the standard allows for them."""
    events = draw(st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=6))
    lines: list[str] = []
    for event in events:
        lines += draw(st.lists(TEXTS.map(lambda text: f":{text}"), max_size=2))
        lines += [draw(st.sampled_from(["", "id: 7", "event: message", "retry", "dat: x"]))]
        gap = draw(st.sampled_from(["", " "]))
        lines += [f"data:{gap}{_unpadded(line)}" for line in event]
        lines.append("")
    end = draw(ENDS)  # one for all: a return and then a newline would be a single end
    written = "".join(line + end for line in lines)
    bom = draw(st.sampled_from(["", "\ufeff"]))
    return ["\n".join(map(_unpadded, event)) for event in events], (bom + written).encode()


def _unpadded(line: str) -> str:
    """One space after the colon belongs to the form, so that a text may not begin with one."""
    return line.lstrip(" ")


def cut(content: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places, wherever those are."""
    bounds = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[start:end] for start, end in pairwise(bounds)]


@given(streams(), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_however_a_stream_is_cut_the_same_events_come(
    stream: tuple[list[str], bytes], places: list[int]
) -> None:
    events, written = stream
    reader = EventStream()

    came = [event for part in cut(written, places) for event in reader.feed(part)]

    assert came == events


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_are_events_or_raise_and_the_cuts_do_not_matter(
    content: bytes, places: list[int]
) -> None:
    def read(parts: list[bytes]) -> list[str] | None:
        reader = EventStream(max_event_bytes=150)
        try:
            return [event for part in parts for event in reader.feed(part)]
        except RemoteProtocolError:
            return None

    assert read([content]) == read(cut(content, places))


@pytest.mark.parametrize(
    "content",
    [b"data: " + b"x" * 100, b"data: 12345678\n" * 8, b": " + b"x" * 100, b"data: \xff\n\n"],
)
def test_what_is_too_large_or_no_text_raises(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        EventStream(max_event_bytes=80).feed(content)


def test_an_event_that_the_end_cuts_off_is_none() -> None:
    assert EventStream().feed(b"data: one\n\ndata: two\n") == ["one"]


@pytest.mark.parametrize("line", [b"\n", b"\r", b":\n", b"id\n", b"data:\n"])
def test_a_stream_has_so_many_lines_whatever_they_say(line: bytes) -> None:
    reader = EventStream(max_lines=100)

    reader.feed(line * 60)
    with pytest.raises(RemoteProtocolError, match="100 lines"):
        reader.feed(line * 60)


def test_a_stream_of_all_tokens_that_may_be_asked_for_has_room() -> None:
    reader, lines = EventStream(), b"event: x\ndata: y\n\n" * 1_000

    for _ in range(MAX_NEW_TOKENS // 1_000 + 1):
        assert len(reader.feed(lines)) == 1_000
