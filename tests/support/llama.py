"""Small models of the Llama family with random weights, as folders and as GGUF files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 288,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 257,
}
BOS, EOS = "<|start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}"
)
Weights = dict[str, NDArray[np.float32]]


def alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies, by byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


VOCABULARY = [*alphabet(), BOS, EOS, *(f"<|spare{n}|>" for n in range(30))]
CONTROL = [1] * 256 + [3] * 32


def random_weights(seed: int = 0, config: dict[str, Any] = CONFIG) -> Weights:
    """Weights under the names of safetensors files, of a size that keeps numbers moderate."""
    rng = np.random.default_rng(seed)
    size, inner = config["hidden_size"], config["intermediate_size"]
    head = size // config["num_attention_heads"]
    pairs = config["num_key_value_heads"] * head

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return (1 + rng.standard_normal(size) / 10).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], size) * 4,
        "model.norm.weight": norm(),
    }
    for layer in range(config["num_hidden_layers"]):
        weights |= {
            f"model.layers.{layer}.{name}": value
            for name, value in {
                "input_layernorm.weight": norm(),
                "self_attn.q_proj.weight": matrix(size, size),
                "self_attn.k_proj.weight": matrix(pairs, size),
                "self_attn.v_proj.weight": matrix(pairs, size),
                "self_attn.o_proj.weight": matrix(size, size),
                "post_attention_layernorm.weight": norm(),
                "mlp.gate_proj.weight": matrix(inner, size),
                "mlp.up_proj.weight": matrix(inner, size),
                "mlp.down_proj.weight": matrix(size, inner),
            }.items()
        }
    return weights


def llama_folder(folder: Path, weights: Weights | None = None, **config: object) -> Path:
    """Write a model's folder as it is published, and return it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "bos_token": BOS, "eos_token": {"content": EOS}})
    )
    chosen = random_weights() if weights is None else weights
    (folder / "model.safetensors").write_bytes(safetensors(chosen))
    return folder


def safetensors(weights: Weights) -> bytes:
    header: dict[str, Any] = {}
    content = b""
    for name, value in weights.items():
        start, content = len(content), content + value.tobytes()
        offsets = [start, len(content)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def _tokenizer() -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    added = [
        {
            "id": number,
            "content": VOCABULARY[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number in range(256, 288)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(VOCABULARY)},
            "merges": [],
        },
    }


# GGUF

_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5
_SOURCES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_metadata(**changes: tuple[int, Any] | None) -> dict[str, tuple[int, Any]]:
    """A model's keys, each with its type and value; a change to None leaves one out."""
    keys: dict[str, tuple[int, Any] | None] = {
        "general.architecture": (_STRING, "llama"),
        "general.license": (_STRING, "apache-2.0"),
        "llama.block_count": (_U32, CONFIG["num_hidden_layers"]),
        "llama.context_length": (_U32, CONFIG["max_position_embeddings"]),
        "llama.embedding_length": (_U32, CONFIG["hidden_size"]),
        "llama.feed_forward_length": (_U32, CONFIG["intermediate_size"]),
        "llama.attention.head_count": (_U32, CONFIG["num_attention_heads"]),
        "llama.attention.head_count_kv": (_U32, CONFIG["num_key_value_heads"]),
        "llama.attention.layer_norm_rms_epsilon": (_F32, CONFIG["rms_norm_eps"]),
        "tokenizer.ggml.model": (_STRING, "gpt2"),
        "tokenizer.ggml.pre": (_STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, VOCABULARY)),
        "tokenizer.ggml.token_type": (_ARRAY, (_I32, CONTROL)),
        "tokenizer.ggml.merges": (_ARRAY, (_STRING, [])),
        "tokenizer.ggml.eos_token_id": (_U32, 257),
        "tokenizer.chat_template": (_STRING, TEMPLATE),
        "tokenizer.ggml.add_bos_token": (_BOOL, False),
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return {key: value for key, value in keys.items() if value is not None}


def gguf_tensors(weights: Weights) -> dict[str, tuple[int, NDArray[np.float32], bytes]]:
    """Tensors under GGUF's names: norms as F32, matrices as F16, rotated pairs side by side."""
    tensors: dict[str, tuple[int, NDArray[np.float32], bytes]] = {}
    for name, value in weights.items():
        stored = value
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                halves = value.reshape(CONFIG[heads], 2, -1, value.shape[1])
                stored = halves.swapaxes(1, 2).reshape(value.shape)
        kind = 0 if value.ndim == 1 else 1
        content = stored.astype(np.float32 if kind == 0 else np.float16).tobytes()
        tensors[_gguf_name(name)] = (kind, value, content)
    return tensors


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_SOURCES[rest.removesuffix('.weight')]}.weight"


def gguf_bytes(
    metadata: dict[str, tuple[int, Any]] | None = None,
    tensors: dict[str, tuple[int, NDArray[np.float32], bytes]] | None = None,
) -> bytes:
    """A whole GGUF file."""
    keys = gguf_metadata() if metadata is None else metadata
    placed = gguf_tensors(random_weights()) if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", 3, len(placed), len(keys))
    for key, (kind, value) in keys.items():
        head += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    content = b""
    for name, (kind, value, stored) in placed.items():
        shape = value.shape[::-1]
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}QIQ", *shape, kind, len(content))
        content += stored + bytes(-len(stored) % 32)
    return head + bytes(-len(head) % 32) + content


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, v) for v in values)
    form = {_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?"}[kind]
    return struct.pack(form, value)
