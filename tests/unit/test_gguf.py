"""GGUF files: what is read from good ones, and that no other one gets further than an error."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from node.gguf.blocks import numbers_of
from node.gguf.convert import precision_of, read_header, write_files
from node.gguf.header import parse_header
from node.manifest import ModelError
from node.models import ModelStore
from tests.support.llama import (
    CONFIG,
    gguf_bytes,
    gguf_metadata,
    gguf_tensors,
    random_weights,
    safetensors,
)

GOOD = gguf_bytes()
HEADER_BYTES = len(gguf_bytes(tensors={}))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def refused(content: bytes, folder: Path) -> ModelError:
    """Convert a file that must be refused; return why."""
    file = folder / "model.gguf"
    file.write_bytes(content)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with pytest.raises(ModelError) as caught:
            write_files(descriptor, read_header(descriptor), folder)
    finally:
        os.close(descriptor)
    return caught.value


def test_a_gguf_file_becomes_a_model_and_the_same_one_each_time(store: ModelStore, tmp_path: Path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(GOOD)

    model = store.add_path(file, name="tiny", kind="generate")

    assert (model.kind, model.manifest.architecture) == ("generate", "llama")
    assert (model.manifest.dimension, model.manifest.max_tokens) == (64, 256)
    assert (model.manifest.license, model.precisions[0]) == ("apache-2.0", "fp32")
    assert sorted(model.manifest.files) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert store.add_path(file, name="tiny", kind="generate") == model


def test_its_weights_are_those_of_the_file_and_halves_are_apart_again(
    store: ModelStore, tmp_path: Path
):
    (tmp_path / "tiny.gguf").write_bytes(GOOD)
    made = store.add_path(tmp_path / "tiny.gguf", name="tiny").path / "model.safetensors"
    content = made.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])

    for name, weight in random_weights().items():
        start, end = header[name]["data_offsets"]
        dtype = {"F16": np.float16, "F32": np.float32}[header[name]["dtype"]]
        found = np.frombuffer(content[8 + size + start : 8 + size + end], dtype)
        np.testing.assert_array_equal(found, weight.astype(dtype).ravel())


def test_what_the_file_says_of_ends_is_kept(store: ModelStore, tmp_path: Path):
    (tmp_path / "tiny.gguf").write_bytes(GOOD)
    config = json.loads(
        (store.add_path(tmp_path / "tiny.gguf", name="tiny").path / "config.json").read_text()
    )

    assert config["eos_token_id"] == [257]
    assert config["tie_word_embeddings"] is True
    assert {name: config[name] for name in ("rms_norm_eps", "vocab_size")} == {
        "rms_norm_eps": 1e-5,
        "vocab_size": CONFIG["vocab_size"],
    }


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(GOOD) - 1))
@example(len(GOOD) - 1)
def test_a_file_cut_anywhere_is_refused(cut: int):
    with pytest.raises(ModelError) as caught:
        parse_header(GOOD[:cut], cut)

    assert caught.value.code == "model-gguf"


@settings(deadline=None, max_examples=300)
@given(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_header_or_an_error(place: int, byte: int):
    changed = bytearray(GOOD)
    changed[place] = byte

    try:
        header = parse_header(bytes(changed), len(changed))
    except ModelError:
        return
    assert all(p.start + p.size_bytes <= len(GOOD) for p in header.tensors.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "ends"),
        (b"PK\x03\x04" + GOOD[4:], "begin"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60) + b"a", "name"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 1 << 60), "ends"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 1), "array of type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 77), "unknown type"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"a", 99), "99 dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 1 << 62, 0, 0), "impossible"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 4, 0, 1 << 62), "outside"),
    ],
)
def test_a_hostile_header_is_refused_before_anything_is_built(content: bytes, says: str):
    with pytest.raises(ModelError, match=says) as caught:
        parse_header(content, len(content))

    assert caught.value.code == "model-gguf"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"general__architecture": (8, "mamba")}, "architecture mamba"),
        ({"general__architecture": (4, 7)}, r"general\.architecture"),
        ({"llama__rope__scaling__type": (8, "yarn")}, "scaling"),
        ({"llama__embedding_length": (4, 1 << 30)}, "does not describe"),
        ({"llama__attention__head_count": (4, 7)}, "divide"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "does not describe"),
        ({"tokenizer__ggml__model": (8, "llama")}, "tokenizer llama"),
        ({"tokenizer__ggml__tokens": (9, (8, ["a"] * 288))}, "twice"),
        ({"tokenizer__ggml__tokens": None}, r"tokenizer\.ggml\.tokens"),
        ({"tokenizer__ggml__token_type": (9, (5, [1]))}, r"tokenizer\.ggml\.token_type"),
        ({"tokenizer__ggml__eos_token_id": (4, 288)}, "eos_token_id"),
        ({"tokenizer__ggml__merges": (9, (8, ["abc"]))}, r"tokenizer\.ggml\.merges"),
        ({"tokenizer__chat_template": (8, "x" * 70_000)}, "chat template"),
        ({"llama__block_count": (4, 3)}, r"no tensor blk\.2\.attn_norm"),
    ],
)
def test_another_model_is_refused_by_name(changes: dict[str, Any], says: str, tmp_path: Path):
    error = refused(gguf_bytes(gguf_metadata(**changes)), tmp_path)

    assert error.code in ("model-config", "model-weights")
    assert says.replace("\\", "") in error.message


def test_a_tensor_of_another_shape_or_type_is_refused(tmp_path: Path):
    tensors = gguf_tensors(random_weights())
    kind, _, content = tensors["blk.0.attn_q.weight"]
    flat = np.zeros((32, 128), dtype=np.float32)
    narrow = refused(
        gguf_bytes(tensors={**tensors, "blk.0.attn_q.weight": (kind, flat, content)}), tmp_path
    )
    odd = refused(gguf_bytes(tensors={**tensors, "blk.0.attn_q.weight": (14, flat, b"")}), tmp_path)

    assert (narrow.code, odd.code) == ("model-weights", "model-weights")
    assert "Q4_1" in odd.message


def test_quantised_blocks_become_the_numbers_that_they_stand_for():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, 32, dtype=np.uint8)
    pairs = (codes[:16] | codes[16:] << 4).tobytes()
    scale, least = np.float16(0.125), np.float16(-1.5)
    bytes_8 = rng.integers(-127, 127, 32, dtype=np.int8)

    q4_0 = numbers_of("Q4_0", scale.tobytes() + pairs, (1, 32))
    q4_1 = numbers_of("Q4_1", scale.tobytes() + least.tobytes() + pairs, (1, 32))
    q8_0 = numbers_of("Q8_0", scale.tobytes() + bytes_8.tobytes(), (32,))

    np.testing.assert_array_equal(q4_0[0], (codes.astype(np.float32) - 8) * 0.125)
    np.testing.assert_array_equal(q4_1[0], codes * 0.125 - 1.5)
    np.testing.assert_array_equal(q8_0, bytes_8 * 0.125)


def test_the_precision_is_that_of_most_matrices():
    tensors = gguf_tensors(random_weights())
    four_bits = {
        name: (3, value, bytes(value.size // 32 * 20)) if kind == 1 else (kind, value, content)
        for name, (kind, value, content) in tensors.items()
    }
    content = gguf_bytes(tensors=four_bits)

    assert precision_of(parse_header(content, len(content))) == "int4"
    assert precision_of(parse_header(GOOD, len(GOOD))) == "fp32"


def test_a_package_with_another_gguf_file_is_refused_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(GOOD)
    monkeypatch.setattr("node.models.locate", lambda _packaged: tmp_path)

    with pytest.raises(ModelError) as caught:
        store.add("smollm2")

    assert caught.value.code == "model-digest"
    assert store.list() == []
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_safetensors_folder_of_another_kind_is_refused(store: ModelStore, tmp_path: Path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors({}))
    (folder / "tokenizer.json").write_text("{}")
    for config in ({"model_type": "gpt2"}, {**CONFIG, "rope_scaling": {"rope_type": "yarn"}}):
        (folder / "config.json").write_text(json.dumps(config))

        with pytest.raises(ModelError) as caught:
            store.add_path(folder, name="tiny", kind="generate")

        assert caught.value.code == "model-config"


def shifted(content: bytes, names: tuple[str, str]) -> bytes:
    """The same file, but that the second tensor of two lies where the first one does."""
    first, second = (content.index(_name(name)) + len(_name(name)) for name in names)
    dimensions = struct.unpack_from("<I", content, first)[0]
    place = 4 + 8 * dimensions + 4
    offset = content[first + place : first + place + 8]
    return content[: second + place] + offset + content[second + place + 8 :]


def _name(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def test_tensors_that_share_bytes_are_refused(tmp_path: Path):
    content = shifted(gguf_bytes(), ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"))

    error = refused(content, tmp_path)

    assert (error.code, "share" in str(error)) == ("model-gguf", True)


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.0.ffn_up.weight", "token_embd.weight"])
def test_every_tensor_must_have_the_shape_that_the_configuration_says(name: str, tmp_path: Path):
    tensors = gguf_tensors(random_weights())
    wide = np.zeros((1 << 10, 32), dtype=np.float32)

    error = refused(gguf_bytes(None, {**tensors, name: (0, wide, wide.tobytes())}), tmp_path)

    assert (error.code, name in str(error)) == ("model-weights", True)
