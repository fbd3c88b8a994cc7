"""What goes into jobs of classify, vad, detect and pipeline and what comes out, without engines."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, strategies as st

from node.runner import text_output
from node.runner.classifier import by_labels, softmax
from node.runner.kinds import (
    KINDS,
    BadInputError,
    BadOutputError,
    Needs,
    classify,
    detect,
    embed,
    generate,
    kind_named,
    noop,
    pipeline,
    runs_on,
    vad,
)
from node.runner.speech import Segment
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_LABELS, MAX_PIPELINE_RESULT_BYTES, MAX_PIPELINE_RESULT_DEPTH
from tests.support.sounds import noise, silence, wav, wav_of

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
LABELS = st.lists(WORDS.filter(str.strip), min_size=2, max_size=6, unique=True).map(tuple)


@given(st.lists(WORDS, min_size=1, max_size=5), LABELS, st.floats(0.001, 10))
def test_texts_and_labels_come_back(texts: list[str], labels: Any, temperature: float) -> None:
    told = {"labels": labels, "temperature": temperature, "template": "about {}"}

    assert classify.decode_input(classify.encode_input(texts, told)) == (texts, told)


@given(LABELS, st.integers(1, 5), st.data())
def test_scores_come_back_with_the_best_label_first(labels: Any, count: int, data: Any) -> None:
    row = st.lists(st.floats(0, 1, width=32), min_size=len(labels), max_size=len(labels))
    scores = np.array(data.draw(st.lists(row, min_size=count, max_size=count)), np.float32)

    output = classify.encode_output(labels, scores)

    assert np.array_equal(classify.array(output), scores)
    for told, expected in zip(classify.rows(output), scores, strict=True):
        assert told["label"] == next(iter(told["scores"])) in labels
        assert told["scores"][told["label"]] == expected.max()
        assert told["scores"].keys() == set(labels)


MOMENTS = st.lists(st.integers(0, 1 << 31), max_size=8, unique=True).map(sorted)


@given(st.lists(MOMENTS, min_size=1, max_size=4))
def test_segments_come_back_in_seconds(items: list[list[int]]) -> None:
    found = [[Segment(*pair) for pair in zip(m[::2], m[1::2], strict=False)] for m in items]

    output = vad.encode_output(found)

    assert vad.decode_output(output) == found
    assert [len(row["segments"]) for row in vad.rows(output)] == [len(item) for item in found]
    assert len(vad.array(output)) == sum(map(len, found))


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=80))
def test_any_output_is_rows_or_breaks_the_protocol(kind: str, output: bytes) -> None:
    codec = kind_named(kind)

    with suppress(RemoteProtocolError):
        assert all(row["index"] >= 0 for row in codec.rows(output))
    with suppress(RemoteProtocolError, BadInputError):
        assert np.isfinite(codec.array(output)).all()


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("classify", cbor2.dumps(["a", "b", struct.pack("<2f", 0.5, math.nan)])),
        ("classify", cbor2.dumps(["a", "b", struct.pack("<2f", 0.5, 1.5)])),
        ("classify", cbor2.dumps(["a", "b", struct.pack("<3f", 0.5, 0.2, 0.3)])),
        ("classify", cbor2.dumps([b""])),
        ("classify", cbor2.dumps([])),
        ("vad", cbor2.dumps([struct.pack("<2I", 5, 4)])),
        ("vad", cbor2.dumps([b"odd"])),
        ("vad", cbor2.dumps(["text"])),
        ("detect", cbor2.dumps(["elf", "application/x-elf", math.nan])),
        ("detect", cbor2.dumps(["elf", "application/x-elf"])),
        ("detect", cbor2.dumps(["elf", 7, 0.5])),
        ("pipeline", cbor2.dumps(["NaN"])),
        ("pipeline", cbor2.dumps(["[" * 100_000])),
        ("pipeline", cbor2.dumps([7])),
    ],
)
def test_an_output_that_cannot_be_breaks_the_protocol(kind: str, output: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(kind_named(kind).rows(output))


@pytest.mark.parametrize("kind", ["detect", "pipeline"])
def test_what_is_no_number_is_no_array(kind: str) -> None:
    with pytest.raises(BadInputError, match="the output of") as refused:
        kind_named(kind).array(cbor2.dumps([]))

    assert "jsonl" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"labels": ("sport", "sport")}, "labels has 'sport' twice"),
        ({"labels": ("sport",)}, f"labels is texts, 2 to {MAX_LABELS} of them"),
        ({"labels": ("sport", " ")}, "one is empty"),
        ({"labels": ("sport", 7)}, "labels is texts"),
        ({"labels": tuple(map(str, range(MAX_LABELS + 1)))}, "labels is texts"),
        ({"labels": ("a", "b"), "temperature": math.nan}, "temperature is a number"),
        ({"labels": ("a", "b"), "temperature": -1.0}, "temperature is a number"),
        ({"labels": ("a", "b"), "temperature": 0}, "temperature is a number"),
        ({"labels": ("a", "b"), "template": "about it"}, "template has {} once"),
        ({"labels": ("a", "b"), "top_p": 1}, "no parameter 'top_p'"),
    ],
)
def test_labels_that_cannot_be_are_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInputError, match=why) as refused:
        classify.encode_input(["text"], told)

    assert refused.value.details["parameter"] in told


def test_without_labels_an_embedder_cannot_classify() -> None:
    with pytest.raises(BadInputError, match="labels are missing") as refused:
        by_labels(classify.encode_input(["text"]))

    assert "--labels" in str(refused.value.hint)


def test_texts_get_the_label_whose_direction_is_theirs() -> None:
    asked = by_labels(classify.encode_input(["x", "y"], {"labels": ("east", "north")}))

    output = asked.answer(np.array([[9, 1], [0, 2], [1, 0], [0, 1]], np.float32))

    assert asked.texts == ["x", "y", "This text is about east.", "This text is about north."]
    assert asked.items == 2
    assert [row["label"] for row in classify.rows(output)] == ["east", "north"]
    assert classify.array(output).sum(axis=1) == pytest.approx(1)


def test_scores_that_are_no_numbers_are_bad_output() -> None:
    with pytest.raises(BadOutputError, match="item 1"):
        softmax(np.array([[0, 1], [math.inf, 0]], np.float32))


RECORDING = wav(noise(0.1))


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (b"", "item 1 is no WAV file"),
        (b"not sound at all", "item 1 is no WAV file"),
        (RECORDING[:40], "item 1 ends before its samples"),
        (RECORDING[:-1], "item 1 is cut off: a part of 3200 bytes has 3199"),
        (RECORDING[:12], "item 1 ends before its samples"),
        (wav_of(b""), "0 bytes of samples"),
        (wav_of(b"\0\0\0"), "3 bytes of samples"),
        (wav_of(b"\0" * 6, channels=2), "6 bytes of samples"),
        (wav_of(b"\0" * 8, bits=8), "8-bit samples"),
        (wav_of(b"\0" * 8, bits=32), "32-bit samples"),
        (wav_of(b"\0" * 8, rate=44_100), "at 44100 Hz"),
        (wav_of(b"\0" * 12, channels=3), "3 channels"),
        (RECORDING[:20] + b"\x03" + RECORDING[21:], "of format 3"),
        (b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * 70, "no samples in its first 64 parts"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0\0\0", "does not say how its samples are stored"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\0\0", "does not say how its samples are stored"),
        (b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff\0\0", "is cut off"),
    ],
)
def test_what_is_no_recording_is_refused_by_its_place(item: bytes, why: str) -> None:
    with pytest.raises(BadInputError, match=why) as refused:
        vad.encode_input([RECORDING, item])

    assert refused.value.details["item"] == 1


@given(st.binary(max_size=60))
def test_any_bytes_are_a_recording_or_bad_input(content: bytes) -> None:
    for item in (content, RECORDING[:12] + content, RECORDING[:36] + content):
        with suppress(BadInputError):
            ((recording,), _) = vad.decode_input(vad.encode_input([item]))
            assert recording.length > 0


def test_texts_are_no_files_and_files_no_texts() -> None:
    for kind, items in (
        ("vad", ["text"]),
        ("detect", ["text"]),
        ("classify", [b"a"]),
        ("pipeline", [b"a"]),
    ):
        with pytest.raises(BadInputError, match="item 0 is not"):
            kind_named(kind).encode_input(items)
        with pytest.raises(BadInputError, match="holds no"):
            kind_named(kind).encode_input([])


def test_files_that_are_empty_can_be_detected() -> None:
    assert detect.decode_input(detect.encode_input([b"", b"a"])) == [b"", b"a"]


def test_samples_are_the_same_from_both_channels_and_at_half_the_rate() -> None:
    times = np.arange(16_000) / 16_000
    sound = 0.5 * np.sin(2 * np.pi * 440 * times)
    (((mono, stereo, slow), _)) = vad.decode_input(
        vad.encode_input([wav(sound), wav(sound, channels=2), wav(sound, rate=8_000)])
    )

    assert mono.length == stereo.length == slow.length == 16_000
    assert np.array_equal(mono.block(0, 16_000), stereo.block(0, 16_000))
    assert slow.block(0, 16_000)[100:-100] == pytest.approx(sound[100:-100], abs=2e-3)
    assert np.array_equal(
        np.concatenate([slow.block(0, 512), slow.block(512, 2_048)]), slow.block(0, 2_048)
    )
    assert not mono.block(-64, 0).any()
    assert not mono.block(16_000, 16_400).any()


def test_an_extensible_header_is_read() -> None:
    guid = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4) + guid
    samples = silence(0.1).astype("<i2").tobytes()
    parts = b"fmt " + struct.pack("<I", len(layout)) + layout
    parts += b"LIST\x03\0\0\0abc\0data" + struct.pack("<I", len(samples)) + samples

    ((recording,), told) = vad.decode_input(vad.encode_input([b"RIFF\0\0\0\0WAVE" + parts]))

    assert recording.length == 1_600
    assert told["threshold"] == 0.5


def test_a_kind_runs_on_models_of_its_own_and_of_those_that_it_names() -> None:
    assert runs_on("classify", "embed")
    assert runs_on("classify", "classify")
    assert runs_on("unheard-of", "unheard-of")
    assert not runs_on("embed", "classify")
    assert not runs_on("unheard-of", "embed")


def test_what_is_not_installed_is_named_with_what_installs_it() -> None:
    needs = Needs("dreams", ("math", "covey_no_such_module"))

    assert needs.unmet() == "covey_no_such_module is not installed: pip install 'covey[dreams]'"
    assert Needs("dreams", ("math",)).unmet() is None


def test_a_pipelines_task_is_one_of_the_list() -> None:
    with pytest.raises(BadInputError, match="task is one of auto"):
        pipeline.encode_input(["text"], {"task": "automatic-speech-recognition"})


# Whether an output can be an answer


def answers() -> dict[str, tuple[bytes, bytes]]:
    """An input of each kind, and an output that can be its answer."""
    labels = {"labels": ["sun", "rain"]}
    second = wav(silence(1.0))
    scores = np.array([[0.25, 0.75]] * 2, np.float32)
    return {
        "embed": (
            embed.encode_input(["a", "b"]),
            embed.encode_output(np.ones((2, 3), "<f4")),
        ),
        "classify": (
            classify.encode_input(["a", "b"], labels),
            classify.encode_output(labels["labels"], scores),
        ),
        "vad": (
            vad.encode_input([second, second]),
            vad.encode_output([[Segment(0, 40), Segment(40, 1_000)], []]),
        ),
        "detect": (detect.encode_input([b"a"]), cbor2.dumps(["text", "text/plain", 1.0])),
        "pipeline": (pipeline.encode_input(["a"]), cbor2.dumps(['[{"score": 0.5}]'])),
        "bench.noop": (noop.encode_input(["a"]), noop.encode_input(["a"])),
        "generate": (
            generate.encode_input(["a"], {"max_tokens": 2}),
            text_output.piece(0, "b", None, 1) + text_output.piece(0, "", "stop", 1),
        ),
    }


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


WRONG: list[tuple[str, bytes]] = [
    ("embed", embed.encode_output(np.ones((1, 3), "<f4"))),
    ("embed", embed.encode_output(np.ones((3, 3), "<f4"))),
    ("embed", embed.encode_output(np.full((2, 3), math.inf, "<f4"))),
    ("embed", embed.encode_output(np.full((2, 1 << 18), math.nan, "<f4"))),
    ("classify", classify.encode_output(["sun", "snow"], np.ones((2, 2), np.float32))),
    ("classify", classify.encode_output(["sun", "rain"], np.ones((1, 2), np.float32))),
    ("classify", cbor2.dumps(["sun", "rain", floats(0, 1, math.nan, 1)])),
    ("classify", cbor2.dumps(["sun", "rain", floats(0, 1, -0.1, 1)])),
    ("classify", cbor2.dumps(["sun", "rain", floats(0, 1, 2, 1)])),
    ("classify", cbor2.dumps(["x"] * (MAX_LABELS + 1) + [b""])),
    ("vad", vad.encode_output([[]])),
    ("vad", vad.encode_output([[], [], []])),
    ("vad", vad.encode_output([[Segment(0, 9_000)], []])),
    ("vad", vad.encode_output([[Segment(0, 0)] * 200, []])),
    ("detect", cbor2.dumps([])),
    ("detect", cbor2.dumps(["text", "text/plain", 1.0] * 2)),
    ("pipeline", cbor2.dumps([])),
    ("pipeline", cbor2.dumps(["1", "1"])),
    ("pipeline", cbor2.dumps(['{"score": 1e999}'])),
    ("pipeline", cbor2.dumps(["-1e999"])),
    ("pipeline", cbor2.dumps([deep(MAX_PIPELINE_RESULT_DEPTH + 1)])),
    ("pipeline", cbor2.dumps([deep(450)])),
    ("pipeline", cbor2.dumps([deep(100_000)])),
    ("pipeline", cbor2.dumps([b"1"])),
    ("pipeline", cbor2.dumps([" " * MAX_PIPELINE_RESULT_BYTES + "1"])),
    ("bench.noop", noop.encode_input(["b"])),
    ("generate", text_output.piece(0, "b", None, 1)),
    ("generate", text_output.piece(0, "b", None, 1) + text_output.piece(0, "", "stop", 2)),
    ("generate", text_output.piece(0, "b", "stop", 1) + text_output.piece(1, "", "stop", 1)),
    ("generate", text_output.piece(0, "", None, 1) + text_output.piece(0, "b", "stop", 1)),
]


@pytest.mark.parametrize("kind", sorted(answers()))
def test_what_can_be_an_answer_passes_and_nothing_that_is_cut_short_does(kind: str) -> None:
    content, output = answers()[kind]

    kind_named(kind).check(output, content)
    for end in range(len(output)):
        with pytest.raises(RemoteProtocolError):
            kind_named(kind).check(output[:end], content)


@pytest.mark.parametrize(("kind", "output"), WRONG)
def test_what_cannot_be_an_answer_breaks_the_protocol(kind: str, output: bytes) -> None:
    content, _ = answers()[kind]

    with pytest.raises(RemoteProtocolError):
        kind_named(kind).check(output, content)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=80), st.binary(max_size=40))
def test_any_answer_to_anything_passes_or_is_wrong(kind: str, output: bytes, other: bytes) -> None:
    content, _ = answers().get(kind, (other, b""))

    for each in (content, other):
        with suppress(RemoteProtocolError, BadInputError):
            kind_named(kind).check(output, each)


def test_results_as_deep_as_they_may_be_can_be_read_and_compared() -> None:
    output = cbor2.dumps([deep(MAX_PIPELINE_RESULT_DEPTH)])

    assert len(pipeline.decode_output(output)) == 1
    assert pipeline.compare(output, output, 0.1).is_within
