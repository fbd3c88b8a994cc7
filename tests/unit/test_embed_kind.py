"""The kind ``embed`` without torch: its codec, and its engine over an encoder that only counts."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from node.runner.batcher import WINDOW_ITEMS
from node.runner.embedder import Asked, EmbedEngine
from node.runner.kinds import (
    Advanced,
    BadInputError,
    BadOutputError,
    Broken,
    Event,
    Facts,
    Finished,
    embed,
    kind_named,
)
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_EMBED_ITEMS, MAX_EMBED_TEXT_BYTES


class LengthEncoder:
    """Its vector of a text is the text's length and first character; some texts break it."""

    dimension = 2

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.execution: Facts = {
            "engine": "test",
            "dtype": "float32",
            "device": "none",
            "threads": 1,
        }

    def tokenise(self, texts: list[str]) -> tuple[list[list[int]], int]:
        if "untokenisable" in texts:
            raise ValueError("no tokens")
        return [[ord(c) for c in text] or [0] for text in texts], sum("long" in t for t in texts)

    def encode(self, rows: list[list[int]]) -> NDArray[np.float32]:
        if any(bytes(row[:4]) == b"boom" for row in rows):
            raise ValueError("boom")
        self.batches.append(len(rows))
        return np.array([[len(row), row[0] or np.nan] for row in rows], dtype=np.float32)


def engine(batch_tokens: int = 64) -> EmbedEngine:
    ticks = count()

    def clock() -> float:
        return next(ticks) / 1_000

    return EmbedEngine(LengthEncoder(), batch_tokens, clock, clock)


def finish(running: EmbedEngine) -> list[Event]:
    events: list[Event] = []
    while running.is_busy:
        events += running.step()
    return events


def outputs(events: list[Event]) -> dict[int, list[list[float]]]:
    return {e.job: embed.array(e.output).tolist() for e in events if isinstance(e, Finished)}


@settings(deadline=None)  # the first example pays for imports
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=50))
def test_an_input_is_read_back_as_it_was(items: list[str]):
    assert embed.decode_input(embed.encode_input(items)) == items


@settings(deadline=None)  # the first example pays for imports
@given(
    st.binary(max_size=64)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(cbor2.dumps)
)
def test_any_bytes_are_an_input_or_refused(content: bytes):
    try:
        items = embed.decode_input(content)
    except BadInputError:
        return
    assert embed.encode_input(items) == content


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "no texts"),
        ([""] * (MAX_EMBED_ITEMS + 1), "more than 100000 items"),
        (["fine", "x" * (MAX_EMBED_TEXT_BYTES + 1)], "item 1 is larger"),
        (["fine", "é" * (MAX_EMBED_TEXT_BYTES // 2 + 1)], "item 1 is larger"),
        (["x" * MAX_EMBED_TEXT_BYTES] * 1_025, "over the limit"),
        (["\ud800"], "surrogate"),
        (["fine", 7], "item 1 is not a text"),
    ],
)
def test_an_input_over_a_limit_is_refused_with_what_is_wrong(items: list[Any], said: str):
    with pytest.raises(BadInputError, match=said) as caught:
        embed.encode_input(items)

    assert caught.value.code == "bad-input"


def test_a_list_that_claims_more_items_than_allowed_is_not_even_read():
    claimed = b"\x9b" + (1 << 40).to_bytes(8, "big")

    with pytest.raises(BadInputError, match="more than"):
        embed.decode_input(claimed)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, MAX_EMBED_TEXT_BYTES])
@pytest.mark.parametrize("number", [1, 23, 24, 256])
def test_texts_of_every_size_and_number_are_read_back(size: int, number: int):
    items = ["x" * size, *["é"] * (number - 1)]

    assert embed.decode_input(embed.encode_input(items)) == items


@pytest.mark.parametrize(
    "content",
    [
        b"\x81\x78\x01a",
        b"\x98\x01\x61a",
        b"\x81\x61a\x00",
        b"\x9f\x61a\xff",
        b"\x81\xd9\xd9\xf7\x61a",
        b"\x82\xd8\x1c\x78\x05hello\xd8\x1d\x00",  # as long as the one form of its two texts
    ],
)
def test_an_input_has_one_form_only(content: bytes):
    with pytest.raises(BadInputError):
        embed.decode_input(content)


def test_an_output_gives_rows_for_people_and_an_array():
    vectors = np.array([[1.5, -2.0], [0.25, 3.0]], dtype="<f4")
    output = cbor2.dumps(["f32", 2, 2, vectors.tobytes()])

    assert list(embed.rows(output)) == [
        {"index": 0, "embedding": [1.5, -2.0]},
        {"index": 1, "embedding": [0.25, 3.0]},
    ]
    assert embed.array(output).dtype == np.float32


@pytest.mark.parametrize(
    "output",
    [
        b"",
        cbor2.dumps(["f32", 2, 2]),
        cbor2.dumps(["f64", 1, 1, b"\0" * 8]),
        cbor2.dumps(["f32", 2, 2, b"\0" * 15]),
        cbor2.dumps(["f32", -1, 4, b""]),
        cbor2.dumps(["f32", True, 1, b"\0" * 4]),
        cbor2.dumps(["f32", 1, 1, b"\0\0\xc0\x7f"]),
        cbor2.dumps({"f32": 1, "a": 2, "b": 3, "c": 4}),
    ],
)
def test_an_output_that_is_not_whole_and_finite_is_refused(output: bytes):
    with pytest.raises(RemoteProtocolError):
        embed.decode_output(output)
    with pytest.raises(RemoteProtocolError):
        embed.unpack(output)


def test_an_output_is_unpacked_without_numpy_to_the_same_numbers():
    vectors = np.arange(40_000, dtype="<f4").reshape(100, 400)
    vectors[7, 3] = np.finfo(np.float32).max
    output = cbor2.dumps(["f32", 100, 400, vectors.tobytes()])

    assert embed.unpack(output) == (100, 400, vectors.tobytes())


@pytest.mark.parametrize("place", [0, 20_000, 39_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_anywhere(place: int, value: float):
    numbers = np.full(40_000, np.finfo(np.float32).max, dtype="<f4")
    numbers[place] = value

    with pytest.raises(RemoteProtocolError, match="not finite"):
        embed.unpack(cbor2.dumps(["f32", 100, 400, numbers.tobytes()]))


def test_an_unknown_kind_is_refused():
    with pytest.raises(BadInputError, match="no kind 'divine'"):
        kind_named("divine")


def test_vectors_come_back_in_the_order_of_the_texts():
    texts = [chr(97 + n % 26) * (1 + n * 7 % 40) for n in range(100)]
    running = engine()
    running.start(1, embed.encode_input(texts))

    events = finish(running)

    assert outputs(events) == {1: [[len(t), ord(t[0])] for t in texts]}
    assert events[-2] == Advanced(1, 100, 100)


def test_jobs_share_batches_and_each_gets_its_own():
    running = engine(batch_tokens=1_000)
    running.start(1, embed.encode_input(["aaa", "bb"]))
    running.start(2, embed.encode_input(["cccc"]))

    events = finish(running)

    assert outputs(events) == {1: [[3, 97], [2, 98]], 2: [[4, 99]]}
    finished = [event for event in events if isinstance(event, Finished)]
    assert [event.execution["max_rows"] for event in finished] == [3, 3]


def test_more_items_than_a_window_are_all_computed():
    texts = ["ab"] * (WINDOW_ITEMS + 5)
    running = engine(batch_tokens=10_000)
    running.start(1, embed.encode_input(texts))

    assert len(outputs(finish(running))[1]) == len(texts)


def test_a_cancelled_job_is_forgotten_and_the_others_go_on():
    running = engine()
    running.start(1, embed.encode_input(["a" * 60] * 10))
    running.start(2, embed.encode_input(["bb"]))
    running.step()

    running.cancel(1)

    assert outputs(finish(running)) == {2: [[2, 98]]}


def test_a_vector_that_is_not_finite_fails_its_job_alone():
    running = engine()
    running.start(1, embed.encode_input(["fine", ""]))
    running.start(2, embed.encode_input(["fine"]))

    events = finish(running)

    broken = [event for event in events if isinstance(event, Broken)]
    assert [(event.job, str(event.error)) for event in broken] == [
        (1, "the vector of item 1 is not finite")
    ]
    assert isinstance(broken[0].error, BadOutputError)
    assert list(outputs(events)) == [2]


def test_a_text_that_breaks_the_tokenizer_or_the_model_fails_its_job_alone():
    running = engine(batch_tokens=4)
    running.start(1, embed.encode_input(["untokenisable"]))
    running.start(2, embed.encode_input(["boom"]))
    running.start(3, embed.encode_input(["fine"]))

    events = finish(running)

    assert [(e.job, type(e.error)) for e in events if isinstance(e, Broken)] == [
        (1, ValueError),
        (2, ValueError),
    ]
    assert list(outputs(events)) == [3]


def test_a_job_is_told_how_it_was_computed():
    running = engine()
    running.start(1, embed.encode_input(["a", "long"]))

    finished = finish(running)[-1]

    assert isinstance(finished, Finished)
    assert finished.execution == {
        "engine": "test", "dtype": "float32", "device": "none", "threads": 1, "batch_tokens": 64,
        "batches": 2, "max_rows": 1, "truncated": 1, "tokens": 5,
    }  # fmt: skip
    assert set(finished.timings) == {"queue_ms", "run_ms", "busy_ms", "cpu_ms"}


def test_the_submitters_side_needs_no_torch():
    check = "import sys, node.runner.kinds.embed, node.runners; assert 'torch' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_model_that_computes_nothing_finite_is_found_when_it_is_loaded():
    encoder = LengthEncoder()
    engine_of_model = EmbedEngine(encoder, 64)
    engine_of_model.warm_up()
    encoder.encode = lambda rows: np.full((len(rows), 2), np.nan, dtype=np.float32)

    with pytest.raises(BadOutputError):
        engine_of_model.warm_up()


def test_more_vectors_than_an_output_may_hold_are_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("node.runner.kinds.embed.MAX_JOB_OUTPUT_BYTES", 32 + 3 * 2 * 4)
    running = engine()

    running.start(1, embed.encode_input(["a"] * 3))
    with pytest.raises(BadInputError, match="over the limit") as caught:
        running.start(2, embed.encode_input(["a"] * 4))

    assert caught.value.code == "output-too-big"
    assert "at most 3" in (caught.value.hint or "")


def test_an_answer_that_cannot_be_put_together_fails_its_job_alone():
    def refuse(_vectors: NDArray[np.float32]) -> bytes:
        raise MemoryError

    def read(content: bytes) -> Asked:
        texts = embed.decode_input(content)
        return Asked(texts, len(texts), refuse if texts == ["x"] else embed.encode_output)

    running = EmbedEngine(LengthEncoder(), 64, read=read)
    running.start(1, embed.encode_input(["x"]))
    running.start(2, embed.encode_input(["y"]))

    ended = {event.job: event for event in finish(running) if not isinstance(event, Advanced)}

    assert isinstance(ended[1], Broken)
    assert isinstance(ended[2], Finished)
