"""What the engines compute, beside somebody else's computation of the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
import torch

from node.manifest import ModelError
from node.models import ModelStore
from node.runner.backends.silero import CONTEXT, FRAME, SileroVad, load_silero
from node.runner.backends.weights import Weights
from node.runner.files import ModelFiles
from node.runner.kinds import (
    BadInputError,
    BadOutputError,
    Broken,
    Engine,
    EngineSettings,
    Finished,
    classify as classify_kind,
    kind_named,
)
from node.runner.kinds.detect import decode_input, decode_output, encode_input
from node.runner.wav import read_wav
from tests.support.onnx_file import weights_of
from tests.support.sounds import RATE, noise, silence, vowels, wav
from tests.support.tiny_models import LABELS, tiny_model

SETTINGS = EngineSettings("fp32", 1, 768)
TEXTS = ["cat sat here", "dog", "", "the cat ran there and there and there", "cat sat here"]
CONFIGURATIONS = ["BertForSequenceClassification", "DistilBertForSequenceClassification"]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def files_of(store: ModelStore, name: str) -> ModelFiles:
    model = store.get(name)
    return ModelFiles(model.path, model.manifest)


@pytest.fixture
def loaded(store: ModelStore, tmp_path: Path) -> Callable[..., Engine]:
    """Load a tiny model of an architecture as a kind."""

    def load(kind: str, architecture: str, **config: object) -> Engine:
        folder = tmp_path / architecture
        if not folder.exists():
            tiny_model(folder, architecture, **config)
        name = f"{kind}-{architecture}".lower()
        store.add_path(folder, name=name, kind=kind)
        return kind_named(kind).load(files_of(store, name), SETTINGS)

    return load


def output_of(engine: Engine, content: bytes) -> bytes:
    engine.start(1, content)
    while engine.is_busy:
        for event in engine.step():
            assert not isinstance(event, Broken), event.error
            if isinstance(event, Finished):
                return event.output
    raise AssertionError("the engine lost a job")


def rows_of(engine: Engine, kind: str, texts: list[str], **told: Any) -> list[dict[str, Any]]:
    codec = kind_named(kind)
    return list(codec.rows(output_of(engine, codec.encode_input(texts, told))))


@pytest.mark.parametrize("architecture", CONFIGURATIONS)
def test_a_models_own_head_says_what_transformers_says(
    loaded: Callable[..., Engine], architecture: str
) -> None:
    ours = rows_of(loaded("classify", architecture), "classify", TEXTS)
    theirs = rows_of(loaded("pipeline", architecture), "pipeline", TEXTS, top_k=3)

    for mine, told in zip(ours, theirs, strict=True):
        expected = {each["label"]: each["score"] for each in told["result"]}
        assert mine["scores"] == pytest.approx(expected, abs=1e-6)
        assert mine["label"] == max(expected, key=lambda label: expected[label])
    assert ours[0]["scores"] == pytest.approx(ours[4]["scores"], abs=1e-6)
    assert len({json.dumps(row["scores"]) for row in ours}) > 1


def test_a_model_with_labels_of_its_own_takes_no_others(loaded: Callable[..., Engine]) -> None:
    engine = loaded("classify", CONFIGURATIONS[0])
    content = classify_kind.encode_input(["cat"], {"labels": ("sport", "politics")})

    with pytest.raises(BadInputError, match="has its own: low, middle, high") as refused:
        engine.start(1, content)

    assert refused.value.details["parameter"] == "labels"


def test_masks_are_filled_and_tokens_and_labels_named(loaded: Callable[..., Engine]) -> None:
    filled = rows_of(
        loaded("pipeline", "BertForMaskedLM"), "pipeline", ["cat [MASK] here", "[MASK]"], top_k=2
    )
    named = rows_of(loaded("pipeline", "BertForTokenClassification"), "pipeline", ["cat sat"])
    shot = rows_of(
        loaded("pipeline", CONFIGURATIONS[0], label2id={"entailment": 2}),
        "pipeline",
        ["cat sat", "dog"],
        task="zero-shot-classification",
        labels=("animal", "weather"),
    )

    assert [len(row["result"]) for row in filled] == [2, 2]
    assert {"score", "token_str", "sequence"} <= filled[0]["result"][0].keys()
    assert [each["word"] for each in named[0]["result"]] == ["cat", "sat"]
    assert all(each["entity"] in LABELS.values() for each in named[0]["result"])
    assert sorted(shot[1]["result"]["labels"]) == ["animal", "weather"]
    assert sum(shot[1]["result"]["scores"]) == pytest.approx(1)


@pytest.mark.parametrize("top_k", [1, 2])
def test_one_text_alone_is_answered_like_several(loaded: Callable[..., Engine], top_k: int) -> None:
    engine = loaded("pipeline", "BertForMaskedLM")

    several = rows_of(engine, "pipeline", ["cat [MASK]", "dog [MASK]"], top_k=top_k)
    alone = rows_of(engine, "pipeline", ["cat [MASK]"], top_k=top_k)

    assert [len(row["result"]) for row in (*several, *alone)] == [top_k] * 3
    assert alone[0]["result"][0]["token_str"] == several[0]["result"][0]["token_str"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"task": "token-classification"}, "does fill-mask, not token-classification"),
        ({"labels": ("a", "b")}, "for that only"),
        ({}, "item 1 has no"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused_before_it_computes(
    loaded: Callable[..., Engine], told: dict[str, Any], why: str
) -> None:
    engine = loaded("pipeline", "BertForMaskedLM")

    with pytest.raises(BadInputError, match=why):
        engine.start(1, kind_named("pipeline").encode_input(["[MASK]", "cat"], told))

    assert not engine.is_busy


def test_scores_that_are_no_numbers_are_bad_output(
    loaded: Callable[..., Engine], tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / CONFIGURATIONS[0], CONFIGURATIONS[0])
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-4:] = b"\x00\x00\xc0\x7f"  # NaN, in whichever tensor lies last
    (folder / "model.safetensors").write_bytes(weights)

    engine = loaded("pipeline", CONFIGURATIONS[0])
    engine.start(1, kind_named("pipeline").encode_input(["cat sat here there ran dog"]))
    (broken,) = engine.step()

    assert isinstance(broken, Broken)
    assert isinstance(broken.error, BadOutputError)


def test_weights_that_are_missing_make_no_pipeline(
    loaded: Callable[..., Engine], tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "BertForTokenClassification", "BertForMaskedLM")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForTokenClassification"]
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="missing: classifier"):
        loaded("pipeline", "BertForTokenClassification")


# Voice


def silero(store: ModelStore) -> SileroVad:
    store.add("silero-vad")
    return load_silero(files_of(store, "silero-vad"), SETTINGS)


def with_weights_of_the_onnx_file(folder: Path) -> SileroVad:
    theirs = weights_of((folder / "silero_vad_16k_op15.onnx").read_bytes())
    named = {"stft_conv.weight": "model.stft.forward_basis_buffer"}
    for part in ("weight", "bias"):
        named[f"final_conv.{part}"] = f"model.decoder.decoder.2.{part}"
        for side in ("ih", "hh"):
            named[f"lstm_cell.{part}_{side}"] = f"model.decoder.rnn.{part}_{side}"
        for layer in range(4):
            named[f"conv{layer + 1}.{part}"] = f"model.encoder.{layer}.reparam_conv.{part}"
    tensors = {ours: torch.from_numpy(theirs[name].copy()) for ours, name in named.items()}
    return SileroVad(Weights(tensors, torch.float32, torch.device("cpu")), 1)


def test_our_network_is_that_of_the_onnx_file() -> None:
    import onnxruntime

    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    sound = np.concatenate([silence(0.2), vowels(1), noise(0.848)])
    recording = read_wav(wav(sound), 0)

    ours = [
        each
        for block in with_weights_of_the_onnx_file(folder).likelihoods(recording, 0)
        for each in block
    ]

    session: Any = onnxruntime.InferenceSession(str(folder / "silero_vad_16k_op15.onnx"))
    state, theirs = np.zeros((2, 1, 128), np.float32), []
    samples = recording.block(-CONTEXT, len(ours) * FRAME)
    for start in range(0, len(ours) * FRAME, FRAME):
        fed = {"input": samples[None, start : start + CONTEXT + FRAME], "state": state}
        likely, state = session.run(None, {**fed, "sr": np.array(RATE, np.int64)})
        theirs.append(likely.item())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert max(ours) > 0.9 > 0.5 > min(ours)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (16_000, 2), (8_000, 1), (8_000, 2)])
def test_speech_is_found_where_it_is(store: ModelStore, rate: int, channels: int) -> None:
    store.add("silero-vad")
    vad = kind_named("vad")
    engine = vad.load(files_of(store, "silero-vad"), SETTINGS)
    sound = np.concatenate([silence(1), vowels(1.5), silence(1), vowels(1), noise(1, 0.02)])
    items = [wav(sound, rate=rate, channels=channels), wav(noise(2), rate=rate)]

    first, second = vad.rows(output_of(engine, vad.encode_input(items)))

    expected = [(1.0, 2.5), (3.5, 4.5)]
    found = [(each["start_s"], each["end_s"]) for each in first["segments"]]
    assert np.array(found) == pytest.approx(np.array(expected), abs=0.35)
    assert second == {"index": 1, "segments": []}


def test_a_long_recording_is_heard_in_blocks_that_remember(store: ModelStore) -> None:
    model = silero(store)
    recording = read_wav(wav(np.concatenate([noise(32.5), vowels(1), silence(1)])), 0)

    blocks = list(model.likelihoods(recording, 0))

    assert [len(block) for block in blocks] == [1_024, 55]
    whole, _ = model._heard(
        torch.from_numpy(recording.block(-CONTEXT, 1_079 * FRAME)).unfold(
            0, CONTEXT + FRAME, FRAME
        ),
        None,
    )
    assert blocks[0] + blocks[1] == pytest.approx(whole.tolist(), abs=1e-5)


# Files


def test_files_are_what_magika_says(store: ModelStore) -> None:
    magika: Any = pytest.importorskip("magika")
    store.add("magika")
    engine = kind_named("detect").load(files_of(store, "magika"), SETTINGS)
    here = Path(__file__)
    items = [
        here.read_bytes(),
        (here.parents[2] / "pyproject.toml").read_bytes(),
        b"",
        b" \n ",
        b"seven b",
        b"\xff\xfe\xfd",
        b" " * 40 + b"abc",
        b"\n" * 5_000 + b"print('hello')\n" * 400,
        wav(noise(1)),
        json.dumps({"name": ["value"] * 2_000}).encode(),
        np.random.default_rng(0).bytes(20_000),
        (here.parents[2] / "tests/data/README.md").read_bytes(),
    ] * 2

    found = decode_output(output_of(engine, encode_input(items)))

    theirs = magika.Magika()
    for item, mine in zip(items, found, strict=True):
        told = theirs.identify_bytes(item)
        assert (mine.label, mine.mime) == (told.output.label, told.output.mime_type)
        assert mine.score == pytest.approx(told.score, abs=0.05)
    assert {"python", "toml", "empty", "wav"} <= {each.label for each in found}


def test_of_large_files_only_the_ends_travel() -> None:
    item = bytes(range(256)) * 1_000

    (sent,) = decode_input(encode_input([item]))

    assert len(cbor2.dumps(sent)) < 8_300
    assert sent == item[:4_096] + item[-4_096:]
