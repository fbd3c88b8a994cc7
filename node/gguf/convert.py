"""A GGUF file of the Llama family as the files that runners read: ``config.json``,
``tokenizer.json``, ``tokenizer_config.json`` and ``model.safetensors``.

One file always gives the same bytes, so that the result can be pinned by digest like any other
model. Tensors are read and written one at a time: a model larger than the memory can be converted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from node.gguf.blocks import Numbers, numbers_of
from node.gguf.header import MAX_HEADER_BYTES, Header, TensorPlace, malformed, parse_header
from node.gguf.tokenizer import (
    end_tokens,
    text_of,
    tokenizer_config_json,
    tokenizer_json,
    tokens_of,
)
from node.manifest import ModelError
from node.runner.backends.llama import LlamaConfig

ARCHITECTURE: Final = "llama"
WEIGHTS: Final = "model.safetensors"
SUFFIX: Final = ".gguf"

_DTYPES: Final = {"F32": "F32", "BF16": "BF16"}  # every other encoding becomes F16
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def read_header(descriptor: int) -> Header:
    """Return the header of an opened GGUF file; raises ``ModelError``."""
    size_bytes = os.fstat(descriptor).st_size
    return parse_header(os.pread(descriptor, MAX_HEADER_BYTES, 0), size_bytes)


def precision_of(header: Header) -> str:
    """Return the precision that the file's weights have, by its most frequent encoding."""
    encodings = [place.encoding.name for place in header.tensors.values()]
    matrices = [name for name in encodings if name != "F32"]
    most = max(sorted(set(matrices)), key=matrices.count, default="F32")
    return {"Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8", "BF16": "bf16"}.get(most, "fp32")


def license_of(header: Header) -> str:
    """Return the licence that the file names."""
    return text_of(header, "general.license", "unknown")[:256] or "unknown"


def write_files(descriptor: int, header: Header, folder: Path) -> None:
    """Write the model's files into ``folder``; raises ``ModelError``."""
    config = config_of(header)
    tensors = [*_tensors(header, LlamaConfig.parse(_json(config)))]  # all are checked before a byte
    (folder / "config.json").write_bytes(_json(config))
    (folder / "tokenizer.json").write_bytes(tokenizer_json(header))
    (folder / "tokenizer_config.json").write_bytes(tokenizer_config_json(header))
    with (folder / WEIGHTS).open("xb") as file:
        _write_weights(file, tensors, descriptor)


def config_of(header: Header) -> dict[str, Any]:
    """Return the fields of ``config.json``; raises ``ModelError`` for another architecture."""
    architecture = text_of(header, "general.architecture")
    if architecture != ARCHITECTURE:
        raise ModelError(
            f"a GGUF file of architecture {architecture} is not supported, only {ARCHITECTURE}",
            code="model-config",
        )
    if "rope_freqs.weight" in header.tensors or "llama.rope.scaling.type" in header.metadata:
        raise ModelError("scaled positions (RoPE scaling) are not supported", code="model-config")
    values = {name: header.metadata.get(f"llama.{key}") for name, key in _CONFIG.items()}
    tokens = tokens_of(header)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": len(tokens),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "eos_token_id": end_tokens(header),
        "rms_norm_eps": _short(header.metadata.get("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(header.metadata.get("llama.rope.freq_base", 10_000.0)),
        **{name: value for name, value in values.items() if value is not None},
    }
    LlamaConfig.parse(_json(config))
    return config


_CONFIG: Final = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "rope.dimension_count",
    "max_position_embeddings": "context_length",
}


def _short(value: Any) -> Any:
    """A number that was float32, in the fewest digits that give it again."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the result: its name, its source, and what is done to its numbers."""

    name: str
    place: TensorPlace
    arranged: Callable[[Numbers], Numbers]

    @property
    def dtype(self) -> str:
        return _DTYPES.get(self.place.encoding.name, "F16")

    @property
    def size_bytes(self) -> int:
        width = 4 if self.dtype == "F32" else 2
        return int(np.prod(self.place.shape, dtype=np.int64)) * width

    def content(self, descriptor: int) -> bytes:
        place = self.place
        stored = os.pread(descriptor, place.size_bytes, place.start)
        while len(stored) < place.size_bytes:  # one call reads 2 GiB at most
            more = os.pread(descriptor, place.size_bytes - len(stored), place.start + len(stored))
            if not more:
                raise malformed("it became shorter while it was read")
            stored += more
        return self.arranged(numbers_of(place.encoding.name, stored, place.shape)).tobytes()


def _tensors(header: Header, config: LlamaConfig) -> Iterator[_Tensor]:
    """Yield all tensors of the model; raises ``ModelError`` for one of another shape than the
    configuration says.
    """
    tables = {"output_norm.weight": (config.hidden_size,)}
    for source, name in _TOP.items():
        if source in header.tensors:
            shape = tables.get(source, (config.vocab_size, config.hidden_size))
            yield _Tensor(name, _place(header, source, shape), _as_it_is)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.key_value_heads}
    shapes = _shapes(config)
    for layer in range(config.num_hidden_layers):
        for source, name in _LAYER.items():
            place = _place(header, f"blk.{layer}.{source}.weight", shapes[source])
            arranged = _halves(heads[source], config.head_size) if source in heads else _as_it_is
            yield _Tensor(f"model.layers.{layer}.{name}.weight", place, arranged)


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_size
    keys = config.key_value_heads * config.head_size
    return {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }


def _place(header: Header, key: str, shape: tuple[int, ...]) -> TensorPlace:
    place = header.tensors.get(key)
    if place is None:
        raise ModelError(f"the GGUF file has no tensor {key}", code="model-weights")
    if place.shape != shape:
        raise ModelError(
            f"tensor {key} has the shape {place.shape}, not {shape}", code="model-weights"
        )
    return place


def _as_it_is(numbers: Numbers) -> Numbers:
    return numbers


def _halves(heads: int, head_size: int) -> Callable[[Numbers], Numbers]:
    """GGUF has the two numbers that are rotated together side by side; safetensors has them half a
    head apart.
    """

    def arrange(numbers: Numbers) -> Numbers:
        pairs = numbers.reshape(heads, head_size // 2, 2, -1)
        return pairs.swapaxes(1, 2).reshape(numbers.shape)

    return arrange


def _write_weights(file: BinaryIO, tensors: list[_Tensor], descriptor: int) -> None:
    """Write a safetensors file: the length of a JSON header, the header, the tensors' bytes."""
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.place.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for tensor in tensors:
        file.write(tensor.content(descriptor))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
