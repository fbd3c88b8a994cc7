"""What the files of a BERT or DistilBERT text classifier say about it, without any engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from node.manifest import ModelError
from node.model_source import Description, ModelSource
from node.runner.backends.bert import BertConfig, Size, parse
from protocols.limits import MAX_LABELS

WHAT: Final = "a BERT or DistilBERT text classifier"
UNNAMED: Final = ("LABEL_0", "LABEL_1")
"""What a configuration without names means, by the custom of Transformers."""


class _DistilConfig(msgspec.Struct, frozen=True):
    model_type: Literal["distilbert"]
    dim: Size
    hidden_dim: Size
    n_layers: Annotated[int, msgspec.Meta(ge=1, le=256)]
    n_heads: Annotated[int, msgspec.Meta(ge=1, le=1_024)]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    max_position_embeddings: Size
    activation: Literal["gelu", "relu"] = "gelu"


class _Head(msgspec.Struct, frozen=True):
    model_type: Literal["bert", "distilbert"]
    id2label: dict[str, str] | None = None
    problem_type: str | None = None
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """The encoder, whether it is DistilBERT's, and the labels in the order of the last layer."""

    encoder: BertConfig
    is_distilled: bool
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, text: bytes) -> ClassifierConfig:
        """Return the configuration in ``text``; raises ``ModelError`` for another architecture, and
        for one that does not choose among labels.
        """
        head: _Head = parse(text, _Head, "config.json", WHAT)
        if not any(name.endswith("ForSequenceClassification") for name in head.architectures):
            raise ModelError(f"config.json does not describe {WHAT}", code="model-config")
        if head.problem_type not in (None, "single_label_classification"):
            raise ModelError(
                f"config.json: a problem of type {head.problem_type} does not choose one label",
                code="model-config",
            )
        return cls(_encoder(text, head.model_type), head.model_type == "distilbert", _labels(head))


def describe_classifier(source: ModelSource) -> Description:
    """Return what makes the classifier in a folder; raises ``ModelError``."""
    config = ClassifierConfig.parse(source.read("config.json"))
    return Description(
        architecture="distilbert" if config.is_distilled else "bert",
        dimension=len(config.labels),
        max_tokens=config.encoder.max_position_embeddings,
        files=("config.json", "tokenizer.json", *source.weights()),
    )


def _labels(head: _Head) -> tuple[str, ...]:
    if head.id2label is None:
        return UNNAMED
    names = [head.id2label.get(str(place)) for place in range(len(head.id2label))]
    labels = tuple(name for name in names if name)
    is_complete = len(labels) == len(head.id2label) == len(set(labels))
    if not is_complete or not 2 <= len(labels) <= MAX_LABELS:
        raise ModelError(
            f"config.json: id2label does not name 2 to {MAX_LABELS} different labels from 0 on",
            code="model-config",
        )
    return labels


def _encoder(text: bytes, model_type: str) -> BertConfig:
    if model_type == "bert":
        return BertConfig.parse(text)
    distilled: _DistilConfig = parse(text, _DistilConfig, "config.json", WHAT)
    fields: dict[str, Any] = {
        "model_type": "bert",
        "hidden_size": distilled.dim,
        "intermediate_size": distilled.hidden_dim,
        "num_hidden_layers": distilled.n_layers,
        "num_attention_heads": distilled.n_heads,
        "vocab_size": distilled.vocab_size,
        "max_position_embeddings": distilled.max_position_embeddings,
        "hidden_act": distilled.activation,
        "type_vocab_size": 1,
    }
    return BertConfig.parse(msgspec.json.encode(fields))
