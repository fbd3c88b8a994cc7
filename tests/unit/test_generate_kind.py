"""The kind ``generate`` without torch: its codec, and its engine over a model that only says texts
backwards.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from node.runner import text_output
from node.runner.generator import TELL_EVERY_S, GenerateEngine
from node.runner.kinds import (
    Advanced,
    BadInputError,
    BadOutputError,
    Broken,
    Emitted,
    Event,
    Finished,
    generate,
    kind_named,
)
from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_GENERATE_INPUT_BYTES,
    MAX_GENERATE_ITEMS,
    MAX_GENERATE_SEQUENCES,
    MAX_NEW_TOKENS,
)
from tests.support.languages import BackwardsModel, ByteText


def engine(**options: Any) -> tuple[GenerateEngine, BackwardsModel]:
    ticks = count()
    model = BackwardsModel(**options)
    running = GenerateEngine(
        model, ByteText(), clock=lambda: float(next(ticks)), cpu_clock=lambda: 0.0
    )
    return running, model


def finish(running: GenerateEngine) -> list[Event]:
    events: list[Event] = []
    while running.is_busy:
        events += running.step()
    return events


def outputs(events: list[Event]) -> dict[int, bytes]:
    """The output of each job: what was emitted, and then the rest."""
    told: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, Emitted | Finished):
            rest = event.piece if isinstance(event, Emitted) else event.output
            told[event.job] = told.get(event.job, b"") + rest
    done = {event.job for event in events if isinstance(event, Finished)}
    return {job: output for job, output in told.items() if job in done}


def texts(output: bytes) -> list[str]:
    return [row["text"] for row in generate.rows(output)]


def test_an_input_comes_back_with_every_parameter_in_it():
    chat = [{"role": "user", "content": "zażółć 🦜"}]
    content = generate.encode_input(["abc", chat], {"seed": 7, "stop": ["\n"], "temperature": 1})

    wanted = generate.decode_input(content)

    assert wanted.items == ["abc", [generate.Message("user", "zażółć 🦜")]]
    assert wanted.parameters == generate.Parameters(256, 1.0, 1.0, 7, ("\n",))
    assert (generate.count(content), generate.count_tokens(content)) == (2, 512)
    assert cbor2.loads(content)["parameters"].keys() == {
        "max_tokens", "temperature", "top_p", "seed", "stop",
    }  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": 0},
        {"max_tokens": MAX_NEW_TOKENS + 1},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 1 << 53},
        {"stop": [""]},
        {"stop": ["x" * 65]},
        {"stop": ["x"] * 9},
        {"stop": "word"},
        {"top_k": 4},
    ],
)
def test_a_parameter_that_cannot_be_is_refused_at_the_submitter(parameters: dict[str, Any]):
    with pytest.raises(BadInputError):
        generate.encode_input(["abc"], parameters)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [""],
        [7],
        [[]],
        [[{"role": "tool", "content": "x"}]],
        [[{"role": "user"}]],
        [[{"role": "user", "content": "x", "name": "y"}]],
        ["x"] * (MAX_GENERATE_ITEMS + 1),
        ["x" * MAX_GENERATE_INPUT_BYTES],
        ["\ud800"],
    ],
)
def test_items_that_no_worker_takes_are_refused_at_the_submitter(items: list[Any]):
    with pytest.raises(BadInputError):
        generate.encode_input(items)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        cbor2.dumps({"items": ["a"], "parameters": {"temperature": -0.0}}),
        cbor2.dumps({"items": ["a"], "parameters": {"temperature": float("nan")}}),
        cbor2.dumps({"parameters": {}, "items": ["a"]}),
        cbor2.dumps({"items": ["a"], "more": 1}),
        cbor2.dumps({"items": ["a"]}) + b"\0",
        b"\x81" * 5_000,
        b"\xa1eitems\x9b" + b"\xff" * 8,
    ],
)
def test_an_input_that_is_no_strict_encoding_is_refused(content: bytes):
    with pytest.raises(BadInputError):
        generate.decode_input(content)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_input_or_refused(content: bytes):
    try:
        wanted = generate.decode_input(content)
    except BadInputError:
        return
    assert wanted.items


@pytest.mark.parametrize(
    "output",
    [
        b"\xff",
        text_output.piece(0, "a", "stop", 1)[:-1],
        cbor2.dumps([0, "a", "stop"]),
        cbor2.dumps([0, "a", "tired", 1]),
        cbor2.dumps([-1, "a", "stop", 1]),
        cbor2.dumps([0, ["a"], "stop", 1]),
        cbor2.dumps({"index": 0}),
        text_output.piece(1, "a", "stop", 1),
        text_output.piece(0, "a", None, 1),
        text_output.piece(0, "a", None, 1) + text_output.piece(1, "b", "stop", 1),
    ],
)
def test_an_output_that_is_not_whole_and_in_turn_is_refused(output: bytes):
    with pytest.raises(RemoteProtocolError):
        list(generate.rows(output))


@settings(max_examples=100)
@given(st.lists(st.integers(1, 40)))
def test_a_growing_output_is_read_however_it_is_cut(sizes: list[int]):
    wanted = [(0, "a🦜" * 9, None, 2), (0, "", "stop", 1), (1, "b" * 70, "length", 3)]
    output = b"".join(text_output.piece(*part) for part in wanted)
    reader, read = text_output.PieceReader(), list[text_output.Piece]()

    for size in [*sizes, len(output)]:
        read += reader.feed(output[:size])
        output = output[size:]

    assert [(p.index, p.text, p.finish_reason, p.tokens) for p in read] == wanted
    assert reader.items_done == 2


def test_a_growing_output_that_is_in_the_midst_of_an_item_is_not_whole():
    reader = text_output.PieceReader()
    reader.feed(text_output.piece(0, "a", None, 1))
    within = reader.items_done
    reader.feed(text_output.piece(0, "b", "stop", 1))

    assert (within, reader.items_done) == (None, 1)
    assert not reader.feed(text_output.piece(1, "c", "stop", 1)[:-1])
    assert reader.items_done is None


@pytest.mark.parametrize(
    "output",
    [
        b"\xff",
        cbor2.dumps([0, "a", "tired", 1]),
        text_output.piece(1, "a", "stop", 1),
        text_output.piece(0, "a", "stop", 1) * 2,
        cbor2.dumps([0, "x" * (1 << 20), None, 1])[: (256 << 10) + 1],
    ],
)
def test_a_growing_output_that_is_none_is_refused(output: bytes):
    with pytest.raises(RemoteProtocolError):
        text_output.PieceReader().feed(output)


def test_parameters_are_not_for_other_kinds_and_text_is_no_array():
    with pytest.raises(BadInputError, match="seed"):
        kind_named("embed").encode_input(["a"], {"seed": 1})
    with pytest.raises(BadInputError, match="text"):
        generate.array(b"")


def backwards(text: str) -> str:
    """Return what the model must be told to say ``text``."""
    return text.encode()[::-1].decode("latin-1")


def test_prompts_and_chats_are_continued_until_their_end():
    running, model = engine()
    chat = [{"role": "system", "content": "ab"}, {"role": "user", "content": "c"}]
    running.start(1, generate.encode_input(["hello|", chat]))

    events = finish(running)

    assert [*generate.rows(outputs(events)[1])] == [
        {"index": 0, "text": "olleh", "finish_reason": "stop", "tokens": 6},
        {"index": 1, "text": "cba", "finish_reason": "stop", "tokens": 4},
    ]
    assert model.opened == {}


def test_what_is_emitted_is_the_beginning_of_the_output_in_whole_characters():
    running, _ = engine()
    running.start(1, generate.encode_input([f"{backwards('a🦜é')}|"]))

    events = finish(running)

    emitted = [event.piece for event in events if isinstance(event, Emitted)]
    assert [cbor2.loads(piece) for piece in emitted] == [
        [0, "a", None, 1],
        [0, "🦜", None, 4],
        [0, "é", None, 2],
    ]
    assert outputs(events)[1] == b"".join(emitted) + text_output.piece(0, "", "stop", 1)


def test_text_is_emitted_at_once_and_then_no_oftener_than_it_must_be():
    now = 0.0
    running = GenerateEngine(BackwardsModel(), ByteText(), lambda: now, lambda: 0.0)
    running.start(1, generate.encode_input(["abcdefghijklmnop|"]))
    told: list[tuple[int, str]] = []
    moved: list[int] = []
    for step in range(17):
        now = step * TELL_EVERY_S / 4
        for event in running.step():
            if isinstance(event, Emitted | Finished):
                content = event.piece if isinstance(event, Emitted) else event.output
                told.append((step, "".join(piece.text for piece in text_output.pieces(content))))
            elif isinstance(event, Advanced):
                moved.append(step)

    assert not running.is_busy
    assert told == [(0, "p"), (4, "onml"), (8, "kjih"), (12, "gfed"), (16, "cba")]
    assert moved == [step for step, _ in told]


def test_items_are_told_in_their_order_whoever_is_first():
    running, _ = engine()
    running.start(1, generate.encode_input(["a long one|", "b|", "c|"]))

    events = finish(running)

    indices = [piece.index for piece in text_output.pieces(outputs(events)[1])]
    assert indices == sorted(indices)
    assert texts(outputs(events)[1]) == ["eno gnol a", "b", "c"]


def test_the_output_is_the_same_whatever_else_is_computed():
    wanted = {"temperature": 1.5, "top_p": 0.9, "seed": 5, "max_tokens": 12}
    inputs = [generate.encode_input([f"job {n}|", "again|"], wanted) for n in range(6)]
    alone: dict[int, bytes] = {}
    for job, content in enumerate(inputs):
        running, _ = engine()
        running.start(job, content)
        alone |= outputs(finish(running))

    running, model = engine()
    events: list[Event] = []
    for job, content in enumerate(inputs):
        running.start(job, content)
        events += running.step()
    together = outputs([*events, *finish(running)])

    assert together == alone
    assert max(model.batches) > 1


def test_jobs_join_and_leave_between_tokens():
    running, model = engine()
    running.start(1, generate.encode_input(["a long text that goes on|"]))
    for _ in range(3):
        running.step()
    running.start(2, generate.encode_input(["ab|"]))

    events = finish(running)

    order = [event.job for event in events if isinstance(event, Finished)]
    assert order == [2, 1]
    assert set(model.batches) == {1, 2}


def test_a_long_prompt_is_read_in_pieces_while_others_go_on():
    running, model = engine(context=1_000)
    running.start(1, generate.encode_input(["short|"]))
    running.step()
    running.start(2, generate.encode_input(["x" * 300 + "|"], {"max_tokens": 1}))

    events = finish(running)

    assert model.reads == [
        6,
        *[BackwardsModel.piece_tokens] * 4,
        301 - 4 * BackwardsModel.piece_tokens,
    ]
    first = next(e for e in events if isinstance(e, Finished))
    assert first.job == 1
    told = [event for event in events if isinstance(event, Advanced) and event.job == 2]
    assert [event.done for event in told][:2] == [
        BackwardsModel.piece_tokens,
        2 * BackwardsModel.piece_tokens,
    ]
    assert told[-1].done == told[-1].total


def test_a_job_of_many_prompts_leaves_room_for_others():
    running, model = engine()
    running.start(1, generate.encode_input([f"text number {n}|" for n in range(50)]))
    running.start(2, generate.encode_input(["ab|"]))

    events = finish(running)

    assert [event.job for event in events if isinstance(event, Finished)] == [2, 1]
    assert max(model.batches) <= MAX_GENERATE_SEQUENCES
    assert texts(outputs(events)[1])[49] == "94 rebmun txet"


def test_what_has_no_room_waits_and_is_computed_later():
    running, model = engine(room=40)
    running.start(1, generate.encode_input(["abcdef|", "ghijkl|", "mnopqr|"], {"max_tokens": 20}))

    events = finish(running)

    assert texts(outputs(events)[1]) == ["fedcba", "lkjihg", "rqponm"]
    assert max(model.batches) == 1


def test_stop_texts_and_lengths_end_a_continuation():
    running, _ = engine()
    running.start(1, generate.encode_input(["abcdefgh|"], {"stop": ["dc", "efx"]}))
    running.start(2, generate.encode_input(["abcdefgh|"], {"max_tokens": 3}))
    running.start(3, generate.encode_input(["abcdefgh|"], {"max_tokens": 4, "stop": ["ed-"]}))

    done = outputs(finish(running))

    assert [*generate.rows(done[1])] == [
        {"index": 0, "text": "hgfe", "finish_reason": "stop", "tokens": 6}
    ]
    assert [*generate.rows(done[2])] == [
        {"index": 0, "text": "hgf", "finish_reason": "length", "tokens": 3}
    ]
    assert texts(done[3]) == ["hgfe"]


def test_the_models_context_ends_a_continuation_and_refuses_a_prompt():
    running, _ = engine(context=10)
    running.start(1, generate.encode_input(["abcdefg|"]))
    running.start(2, generate.encode_input(["fine|", "a prompt that is too long|"]))

    events = finish(running)

    assert next(generate.rows(outputs(events)[1])) == {
        "index": 0, "text": "gf", "finish_reason": "length", "tokens": 2,
    }  # fmt: skip
    (broken,) = [event for event in events if isinstance(event, Broken)]
    assert isinstance(broken.error, BadInputError)
    assert (broken.job, broken.error.message[:22]) == (2, "item 1 has 26 tokens, ")


@pytest.mark.parametrize("when", range(5))
def test_a_cancelled_job_is_forgotten_and_gives_its_room_back(when: int):
    running, model = engine(room=60)
    running.start(1, generate.encode_input(["ab|"] * 4, {"max_tokens": 30}))
    running.start(2, generate.encode_input(["cd|"], {"max_tokens": 30}))
    events = [event for _ in range(when) for event in running.step()]

    running.cancel(1)
    running.cancel(1)
    done = outputs([*events, *finish(running)])

    assert {job: texts(output) for job, output in done.items()} == {2: ["dc"]}
    assert model.opened == {}
    assert not running.is_busy


def test_a_prompt_that_breaks_the_model_fails_its_job_alone():
    running, model = engine()
    running.start(1, generate.encode_input(["boom!|", "fine|"]))
    running.start(2, generate.encode_input(["fine|", "what?|"]))
    running.start(3, generate.encode_input(["fine|"]))

    events = finish(running)

    broken = {event.job: type(event.error) for event in events if isinstance(event, Broken)}
    assert broken == {1: ValueError, 2: BadOutputError}
    assert texts(outputs(events)[3]) == ["enif"]
    assert model.opened == {}


def test_a_job_is_told_how_it_was_computed():
    running, _ = engine()
    running.start(1, generate.encode_input(["ab|", "cd|"]))

    finished = finish(running)[-1]

    assert isinstance(finished, Finished)
    assert finished.execution == {
        "engine": "test", "threads": 1, "piece_tokens": BackwardsModel.piece_tokens,
        "max_rows": 2, "prompt_tokens": 6, "new_tokens": 6,
    }  # fmt: skip
    assert set(finished.timings) == {"queue_ms", "run_ms", "busy_ms", "cpu_ms"}


def test_the_submitters_side_needs_no_torch():
    check = "import sys, node.runner.kinds.generate; assert 'torch' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"rol": "user", "content": "x"}, "item 0: messages\\[1\\] has a field 'rol'"),
        (
            {"role": "king", "content": "x"},
            "has the role 'king': roles are system, user",
        ),
        ({"role": "user"}, "item 0: messages\\[1\\] has no text as its content"),
        ("x", "item 0: messages\\[1\\] is no object with role and content"),
    ],
)
def test_a_message_that_is_none_is_named_in_words(message: Any, says: str):
    chat = [{"role": "user", "content": "hello"}, message]

    with pytest.raises(BadInputError, match=says) as caught:
        generate.encode_input([chat])

    assert caught.value.details["parameter"] == "messages"
    assert "$" not in caught.value.message


@pytest.mark.parametrize("top_p", [1e-6, 1e-7])
def test_a_worker_takes_exactly_the_bounds_that_a_submitter_is_told(top_p: float):
    content = cbor2.dumps({"items": ["a"], "parameters": {"top_p": top_p}}, canonical=False)
    taken: list[bool] = []
    for take in (
        lambda: generate.encode_input(["a"], {"top_p": top_p}),
        lambda: generate.decode_input(content),
    ):
        try:
            take()
            taken.append(True)
        except BadInputError:
            taken.append(False)

    assert taken == [top_p == 1e-6] * 2
