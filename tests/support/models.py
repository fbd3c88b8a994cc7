"""Folders that look like sentence embedders, for what never loads their weights."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = {
    "model_type": "bert",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}
POOLING = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
STAGES = ["Transformer", "Pooling", "Normalize"]


def model_folder(folder: Path, *, weights: bytes = b"weights", **config: object) -> Path:
    """Write the files of a small model and return its folder."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "modules.json").write_text(json.dumps([{"type": f"st.{stage}"} for stage in STAGES]))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    return folder


def flip_byte(path: Path, place: int) -> None:
    """Damage a file as a failing disk would: its size stays."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
