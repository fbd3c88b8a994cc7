"""Models of one layer with random weights, as folders that Transformers would write: a tokenizer of
whole words, a configuration, safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "sat", "ran", "here", "there"]
SIZE, INNER, POSITIONS = 16, 24, 32
LABELS = {"0": "low", "1": "middle", "2": "high"}

Shapes = dict[str, tuple[int, ...]]


def tiny_model(folder: Path, architecture: str, **config: object) -> Path:
    """Write a model of an architecture of BERT or DistilBERT, and return its folder."""
    is_distilled = architecture.startswith("Distil")
    folder.mkdir()
    described = _distilled() if is_distilled else _bert()
    described |= {"architectures": [architecture], "vocab_size": len(WORDS), **config}
    if "Classification" in architecture and "id2label" not in described:
        described |= {"id2label": LABELS, "label2id": {v: int(k) for k, v in LABELS.items()}}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    special = ("pad", "unk", "cls", "sep", "mask")
    named = {f"{name}_token": f"[{name.upper()}]" for name in special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **named}))
    shapes = _distilled_shapes() if is_distilled else _bert_shapes()
    save_file(_random({**shapes, **_head(architecture)}), folder / "model.safetensors")
    return folder


def _bert() -> dict[str, object]:
    return {
        "model_type": "bert",
        "hidden_size": SIZE,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
    }


def _distilled() -> dict[str, object]:
    return {
        "model_type": "distilbert",
        "dim": SIZE,
        "hidden_dim": INNER,
        "n_layers": 1,
        "n_heads": 2,
        "max_position_embeddings": POSITIONS,
        "activation": "gelu",
    }


def _bert_shapes() -> Shapes:
    layer = "bert.encoder.layer.0."
    shapes: Shapes = {
        "bert.embeddings.word_embeddings.weight": (len(WORDS), SIZE),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, SIZE),
        "bert.embeddings.token_type_embeddings.weight": (2, SIZE),
        **_norm("bert.embeddings.LayerNorm"),
        **_norm(f"{layer}attention.output.LayerNorm"),
        **_norm(f"{layer}output.LayerNorm"),
        **_linear(f"{layer}attention.output.dense", SIZE, SIZE),
        **_linear(f"{layer}intermediate.dense", INNER, SIZE),
        **_linear(f"{layer}output.dense", SIZE, INNER),
    }
    for part in ("query", "key", "value"):
        shapes |= _linear(f"{layer}attention.self.{part}", SIZE, SIZE)
    return shapes


def _distilled_shapes() -> Shapes:
    layer = "distilbert.transformer.layer.0."
    shapes: Shapes = {
        "distilbert.embeddings.word_embeddings.weight": (len(WORDS), SIZE),
        "distilbert.embeddings.position_embeddings.weight": (POSITIONS, SIZE),
        **_norm("distilbert.embeddings.LayerNorm"),
        **_norm(f"{layer}sa_layer_norm"),
        **_norm(f"{layer}output_layer_norm"),
        **_linear(f"{layer}ffn.lin1", INNER, SIZE),
        **_linear(f"{layer}ffn.lin2", SIZE, INNER),
    }
    for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
        shapes |= _linear(f"{layer}attention.{part}", SIZE, SIZE)
    return shapes


def _head(architecture: str) -> Shapes:
    match architecture:
        case "BertForSequenceClassification":
            return {
                **_linear("bert.pooler.dense", SIZE, SIZE),
                **_linear("classifier", len(LABELS), SIZE),
            }
        case "DistilBertForSequenceClassification":
            return {
                **_linear("pre_classifier", SIZE, SIZE),
                **_linear("classifier", len(LABELS), SIZE),
            }
        case "BertForTokenClassification":
            return _linear("classifier", len(LABELS), SIZE)
        case "BertForMaskedLM":
            transform = "cls.predictions.transform."
            return {
                "cls.predictions.bias": (len(WORDS),),
                **_linear(f"{transform}dense", SIZE, SIZE),
                **_norm(f"{transform}LayerNorm"),
            }
        case _:
            return {}


def _linear(name: str, out_size: int, in_size: int) -> Shapes:
    return {f"{name}.weight": (out_size, in_size), f"{name}.bias": (out_size,)}


def _norm(name: str) -> Shapes:
    return {f"{name}.weight": (SIZE,), f"{name}.bias": (SIZE,)}


def _random(shapes: Shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        name: (rng.standard_normal(shape) * 0.3 + (1 if "orm.weight" in name else 0)).astype("f4")
        for name, shape in shapes.items()
    }


def _tokenizer() -> dict[str, object]:
    def special(token: str) -> dict[str, object]:
        return {"id": token, "ids": [WORDS.index(token)], "tokens": [token]}

    def added(token: str) -> dict[str, object]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return {"id": WORDS.index(token), "content": token, "special": True, **flags}

    def piece(kind: str, name: str, type_id: int) -> dict[str, object]:
        return {kind: {"id": name, "type_id": type_id}}

    single = [
        piece("SpecialToken", "[CLS]", 0),
        piece("Sequence", "A", 0),
        piece("SpecialToken", "[SEP]", 0),
    ]
    pair = [*single, piece("Sequence", "B", 1), piece("SpecialToken", "[SEP]", 1)]
    return {
        "version": "1.0",
        "added_tokens": [added(token) for token in WORDS[:5]],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": {token: special(token) for token in ("[CLS]", "[SEP]")},
        },
        "model": {
            "type": "WordLevel",
            "vocab": {word: place for place, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
    }
