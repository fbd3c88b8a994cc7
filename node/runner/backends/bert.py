"""What the files of a BERT sentence embedder say about it, without any engine."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from node.manifest import ModelError
from node.model_source import Description, ModelSource

POOLINGS: Final = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}

LIMITS: Final = "sentence_bert_config.json"
OPTIONAL_FILES: Final = ("modules.json", "1_Pooling/config.json", LIMITS)

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class BertConfig(msgspec.Struct, frozen=True):
    """The shape of a BERT encoder, as ``config.json`` gives it."""

    model_type: Literal["bert"]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=256)]
    num_attention_heads: Annotated[int, msgspec.Meta(ge=1, le=1_024)]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    max_position_embeddings: Size
    type_vocab_size: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    layer_norm_eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-12
    hidden_act: Literal["gelu", "gelu_new", "relu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"

    @classmethod
    def parse(cls, text: bytes) -> BertConfig:
        """Return the configuration in ``text``; raises ``ModelError`` for another architecture or
        impossible sizes.
        """
        config = parse(text, cls, "config.json")
        if config.hidden_size % config.num_attention_heads:
            raise ModelError(
                f"config.json: a hidden size of {config.hidden_size} does not divide among its "
                f"{config.num_attention_heads} heads",
                code="model-config",
            )
        return config


class Pooling(msgspec.Struct, frozen=True):
    """How token vectors become one vector: ``mean``, ``cls`` or ``max``, and whether it is scaled
    to length one.
    """

    mode: str = "mean"
    is_normalized: bool = True


class _Limits(msgspec.Struct, frozen=True):
    max_seq_length: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Module(msgspec.Struct, frozen=True):
    type: str


def describe_embedder(source: ModelSource) -> Description:
    """Return what makes the sentence embedder in a folder; raises ``ModelError``."""
    config = BertConfig.parse(source.read("config.json"))
    weights = source.weights()
    optional = source.present(*OPTIONAL_FILES)
    limits = source.read(LIMITS) if LIMITS in optional else None
    return Description(
        architecture=config.model_type,
        dimension=config.hidden_size,
        max_tokens=max_tokens_of(config, limits),
        files=("config.json", "tokenizer.json", *weights, *optional),
    )


def max_tokens_of(config: BertConfig, limits: bytes | None) -> int:
    """Return how many tokens of a text count, given the text of ``sentence_bert_config.json`` if
    the model has one.
    """
    wanted = parse(limits, _Limits, "sentence_bert_config.json").max_seq_length if limits else None
    return min(wanted or config.max_position_embeddings, config.max_position_embeddings)


def pooling_of(modules: bytes | None, pooling: bytes | None) -> Pooling:
    """Return the pooling that ``modules.json`` and ``1_Pooling/config.json`` name; without them, a
    normalised mean.

    Raises ``ModelError`` when the model has a stage that is not one of transformer, pooling and
    normalisation.
    """
    if modules is None:
        return Pooling()
    stages = [m.type.rsplit(".", 1)[-1] for m in parse(modules, list[_Module], "modules.json")]
    if stages not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"modules.json: the stages {', '.join(stages)} are not supported", code="model-config"
        )
    return Pooling(mode=_pooling_mode(pooling), is_normalized=stages[-1] == "Normalize")


def _pooling_mode(text: bytes | None) -> str:
    if text is None:
        return Pooling().mode
    values = parse(text, dict[str, Any], "1_Pooling/config.json")
    chosen = [
        name for name, value in values.items() if name.startswith("pooling_mode_") and value is True
    ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelError(
            f"1_Pooling/config.json: the pooling {chosen} is not supported", code="model-config"
        )
    return POOLINGS[chosen[0]]


def parse(text: bytes, shape: Any, name: str, what: str = "a BERT sentence embedder") -> Any:
    """Return JSON as ``shape`` has it; raises ``ModelError``: it does not describe ``what``."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{name} does not describe {what}: {error}", code="model-config"
        ) from error
