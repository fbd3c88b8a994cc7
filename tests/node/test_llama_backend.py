"""Llama in plain torch, on small random weights: the same numbers as the reference
implementation, and the same whatever else is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from node.manifest import ModelError
from node.models import ModelStore
from node.runner.backends import torch_linear
from node.runner.backends.llama_text import LlamaText
from node.runner.backends.torch_llama import TorchLlama, load_model
from node.runner.files import ModelFiles
from node.runner.kinds import BadInputError, Broken, EngineSettings, Finished, generate
from tests.support.llama import CONFIG, gguf_bytes, llama_folder, random_weights

PROMPT = [5, 77, 200, 13, 13, 91, 250, 3, 44, 120, 7]
CONTINUED = [31, 8, 99, 5]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    root = tmp_path_factory.mktemp("llama")
    model = ModelStore(root / "models").add_path(
        llama_folder(root / "tiny"), name="tiny", kind="generate"
    )
    return ModelFiles(model.path, model.manifest)


def loaded(files: ModelFiles, precision: str) -> TorchLlama:
    return load_model(files, EngineSettings(precision, 1, 0))[0]


def logits_of(model: TorchLlama, pieces: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The logits after each piece of the prompt, and after each token that follows."""
    cache = model.open(64)
    assert cache is not None
    read = [model.read(cache, piece) for piece in pieces]
    written = [model.write([cache], [token])[0] for token in CONTINUED]
    model.close(cache)
    return np.stack([*read, *written])


def reference() -> NDArray[np.float32]:
    """What Transformers computes with the same weights, after the prompt and each token more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(**CONFIG)
    model = LlamaForCausalLM(config).eval()
    weights = {name: torch.from_numpy(value) for name, value in random_weights().items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *CONTINUED]])).logits[0]
    return logits[len(PROMPT) - 1 :].numpy()


def test_fp32_is_what_the_reference_implementation_computes(files: ModelFiles):
    expected = reference()

    whole = logits_of(loaded(files, "fp32"), [PROMPT])
    in_pieces = logits_of(loaded(files, "fp32"), [PROMPT[:4], PROMPT[4:5], PROMPT[5:]])

    np.testing.assert_allclose(whole, expected, atol=2e-4)
    np.testing.assert_allclose(in_pieces[2:], expected, atol=2e-4)


def difference(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """How far logits are off, as a share of their size."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16", 0.01), ("int8", 0.02), ("int4", 0.3)]
)
def test_a_faster_precision_is_within_its_tolerance(
    files: ModelFiles, precision: str, tolerance: float
):
    exact, model = logits_of(loaded(files, "fp32"), [PROMPT]), loaded(files, precision)

    off = difference(logits_of(model, [PROMPT]), exact)

    assert tolerance / 10 < off < tolerance
    assert model.execution["precision"] == precision


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_without_the_kernels_the_same_weights_are_multiplied(
    files: ModelFiles, precision: str, monkeypatch: pytest.MonkeyPatch
):
    by_kernel = logits_of(loaded(files, precision), [PROMPT])
    monkeypatch.setattr("node.runner.backends.torch_llama.has_kernels", lambda _device: False)
    model = loaded(files, precision)

    plain = logits_of(model, [PROMPT])

    assert difference(plain, by_kernel) < 0.02  # bfloat16 rounds elsewhere
    assert (model.execution["kernels"], model.execution["rows"]) == ("plain", "vary with the batch")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_sequences_numbers_are_the_same_bit_for_bit_in_any_company(
    files: ModelFiles, precision: str
):
    model = loaded(files, precision)
    alone = logits_of(model, [PROMPT[:8], PROMPT[8:]])
    others = [model.open(100) for _ in range(6)]
    for length, other in enumerate(others, 1):
        model.read(other, [9] * length * 7)
    cache = model.open(64)

    read = [model.read(cache, piece) for piece in (PROMPT[:8], PROMPT[8:])]
    written: list[NDArray[np.float32]] = []
    for place, token in enumerate(CONTINUED):
        company = [*others[: place + 2], cache, *others[place + 2 :]]
        written.append(model.write(company, [token] * len(company))[place + 2])

    assert model.execution["rows"] == "independent"
    np.testing.assert_array_equal(np.stack([*read, *written]), alone)


def test_attending_together_gives_the_numbers_of_each_alone_whatever_lies_beside_them(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
):
    alone = logits_of(loaded(files, "fp32"), [PROMPT])
    monkeypatch.setattr(TorchLlama, "_attend_each", TorchLlama._attend_together)
    model = loaded(files, "fp32")
    model._memory.fill_(float("inf"))  # what a sequence that overflowed leaves behind
    others = [model.open(100) for _ in range(3)]
    for length, other in enumerate(others, 1):
        model.read(other, [9] * length * 7)
    cache = model.open(64)

    written = [model.read(cache, PROMPT)]
    written += [model.write([*others, cache], [token] * 4)[3] for token in CONTINUED]

    np.testing.assert_allclose(np.stack(written), alone, atol=1e-4)


def test_room_is_bounded_and_given_back(files: ModelFiles, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("node.runner.backends.torch_llama.MAX_KV_CACHE_BYTES", 100 * 1024)
    model = loaded(files, "fp32")

    first, second, third = (model.open(60) for _ in range(3))

    assert model.capacity == model.context == 192
    assert None not in (first, second, third)
    assert model.open(1) is None
    model.close(first)
    assert model.open(64) is not None


def test_four_bits_lose_nothing_of_what_was_in_four_bits():
    codes = torch.randint(0, 16, (16, 64), generator=torch.Generator().manual_seed(1)).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15
    weight = codes * 0.0625 - 0.5

    torch.testing.assert_close(torch_linear.rounded_int4(weight), weight, rtol=0, atol=1e-6)


def test_text_is_told_in_whole_characters_and_a_chat_in_the_models_form(files: ModelFiles):
    _, text = load_model(files, EngineSettings("fp32", 1, 0))
    chat = [{"role": "user", "content": "é"}]

    tokens = text.tokenise("a 🦜é", 192)
    continuation = text.continuation()

    told = [continuation.add(token) for token in tokens]
    assert [part for part in told if part] == ["a", " ", "🦜", "é"]
    assert len(tokens) == 8
    assert text.tokenise(chat, 192) == [256, *text.tokenise("user é", 192), 257, 256]
    assert text.ends == {257}


def test_the_engine_loads_computes_and_refuses_by_the_models_own_limits(files: ModelFiles):
    engine = generate.load(files, EngineSettings("int8", 1, 768))
    engine.start(1, generate.encode_input(["hello"], {"max_tokens": 5}))
    engine.start(2, generate.encode_input(["x" * 256]))

    events = [event for _ in range(8) for event in engine.step()]

    (finished,) = [event for event in events if isinstance(event, Finished)]
    (broken,) = [event for event in events if isinstance(event, Broken)]
    assert finished.execution["new_tokens"] == 5
    assert isinstance(broken.error, BadInputError)
    assert not engine.is_busy


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"num_hidden_layers": 3}, "model-weights"),
        ({"intermediate_size": 128}, "model-weights"),
        ({"vocab_size": 128}, "model-config"),
        ({"tie_word_embeddings": False}, "model-weights"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, change: dict[str, object], code: str
):
    folder = llama_folder(tmp_path / "odd", **change)
    model = ModelStore(tmp_path / "models").add_path(folder, name="odd", kind="generate")

    with pytest.raises(ModelError) as caught:
        load_model(ModelFiles(model.path, model.manifest), EngineSettings("fp32", 1, 0))

    assert caught.value.code == code


def test_weights_that_are_no_safetensors_file_are_refused(tmp_path: Path):
    folder = llama_folder(tmp_path / "cut")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    huge = (1 << 60).to_bytes(8, "little") + whole[8:]
    store = ModelStore(tmp_path / "models")

    for place, content in enumerate((b"", whole[:-9], whole[:100], huge)):
        weights.write_bytes(content)
        model = store.add_path(folder, name=f"cut{place}", kind="generate")
        with pytest.raises(ModelError) as caught:
            loaded(ModelFiles(model.path, model.manifest), "fp32")
        assert caught.value.code == "model-weights"


def test_sizes_that_four_bits_cannot_have_are_refused(tmp_path: Path):
    weights = random_weights(config={**CONFIG, "intermediate_size": 72})
    folder = llama_folder(tmp_path / "odd", weights, intermediate_size=72)
    model = ModelStore(tmp_path / "models").add_path(folder, name="odd", kind="generate")

    with pytest.raises(ModelError) as caught:
        loaded(ModelFiles(model.path, model.manifest), "int4")

    assert caught.value.code == "precision-unavailable"


def test_a_converted_model_computes_what_its_folder_does(files: ModelFiles, tmp_path: Path):
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes())
    model = ModelStore(tmp_path / "models").add_path(tmp_path / "tiny.gguf", name="tiny")

    converted = logits_of(loaded(ModelFiles(model.path, model.manifest), "fp32"), [PROMPT])

    np.testing.assert_allclose(converted, logits_of(loaded(files, "fp32"), [PROMPT]), atol=0.02)


class CountingTokenizer:
    """Notes how much it is asked to encode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.chars: list[int] = []

    def encode(self, text: str, **options: Any) -> Any:
        self.chars.append(len(text))
        return self._tokenizer.encode(text, **options)


def test_a_text_far_past_the_context_is_not_tokenised_to_its_end(files: ModelFiles):
    tokenizer = CountingTokenizer(Tokenizer.from_buffer(files.read("tokenizer.json")))
    text = LlamaText(tokenizer, frozenset({257}), None, None)  # type: ignore[arg-type]

    too_many = text.tokenise("x" * 1_000_000, 192)
    whole = text.tokenise("x" * 100_000, 100_000)

    assert len(too_many) > 192
    assert sum(tokenizer.chars[:1]) < 100_000
    assert len(tokenizer.chars) == 1 + 2
    assert len(whole) == 100_000
