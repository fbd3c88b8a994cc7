"""What the files of a Llama-family model say about it, without any engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from node.manifest import ModelError
from node.model_source import Description

if TYPE_CHECKING:
    from node.model_source import ModelSource

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Heads = Annotated[int, msgspec.Meta(ge=1, le=1_024)]
Token = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]

EndTokens = Token | Annotated[list[Token], msgspec.Meta(max_length=64)] | None

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
OPTIONAL_FILES: Final = (TOKENIZER_CONFIG, "generation_config.json", "chat_template.jinja")
MAX_TEMPLATE_CHARS: Final = 64 << 10  # the longest published ones have about 15,000


class LlamaConfig(msgspec.Struct, frozen=True):
    """The shape of a Llama decoder, as ``config.json`` gives it."""

    model_type: Literal["llama"]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=256)]
    num_attention_heads: Heads
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    max_position_embeddings: Size
    rms_norm_eps: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    num_key_value_heads: Heads | None = None
    head_dim: Annotated[int, msgspec.Meta(ge=2, le=1_024)] | None = None
    rope_theta: Positive | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: bool = False
    eos_token_id: EndTokens = None

    @property
    def key_value_heads(self) -> int:
        """The heads whose keys and values are kept; each serves several query heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """How many numbers a head has."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope_base(self) -> float:
        """The base of the wave lengths by which positions are told."""
        stated = (self.rope_parameters or {}).get("rope_theta", self.rope_theta)
        return float(stated or 10_000.0)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a continuation."""
        stated = self.eos_token_id
        return frozenset(
            stated if isinstance(stated, list) else () if stated is None else (stated,)
        )

    @classmethod
    def parse(cls, text: bytes) -> LlamaConfig:
        """Return the configuration in ``text``; raises ``ModelError`` for another architecture or
        impossible sizes.
        """
        config = _parse(text, cls, "config.json")
        if config.head_dim is None and config.hidden_size % config.num_attention_heads:
            raise _impossible(f"{config.num_attention_heads} heads")
        if config.num_attention_heads % config.key_value_heads or config.head_size % 2:
            raise _impossible(f"{config.key_value_heads} key heads of {config.head_size}")
        for stated in (config.rope_scaling, config.rope_parameters):
            scaling: dict[str, Any] = stated or {}
            kind = scaling.get("rope_type", scaling.get("type", "default"))
            if kind != "default":
                raise ModelError(
                    f"config.json: scaled positions ({kind}) are not supported", code="model-config"
                )
        if not isinstance((config.rope_parameters or {}).get("rope_theta", 1.0), (int, float)):
            raise _impossible("a rope_theta that is no number")
        return config


class GenerationConfig(msgspec.Struct, frozen=True):
    """What ``generation_config.json`` says of where continuations end."""

    eos_token_id: EndTokens = None

    @classmethod
    def parse(cls, text: bytes) -> GenerationConfig:
        """Return the configuration in ``text``; raises ``ModelError``."""
        return _parse(text, cls, "generation_config.json")


class TokenizerConfig(msgspec.Struct, frozen=True):
    """What ``tokenizer_config.json`` says besides the tokenizer: the form of a chat."""

    chat_template: str | None = None
    add_bos_token: bool = False
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None

    @classmethod
    def parse(cls, text: bytes) -> TokenizerConfig:
        """Return the configuration in ``text``; raises ``ModelError``."""
        config = _parse(text, cls, "tokenizer_config.json")
        if len(config.chat_template or "") > MAX_TEMPLATE_CHARS:
            raise ModelError(
                f"the chat template has more than {MAX_TEMPLATE_CHARS} characters",
                code="model-config",
            )
        return config

    def token(self, name: Literal["bos", "eos"]) -> str:
        """Return the text of a token that a template may name; empty when there is none."""
        stated = self.bos_token if name == "bos" else self.eos_token
        text = stated.get("content") if isinstance(stated, dict) else stated
        return text if isinstance(text, str) else ""


def listed(tokens: int | list[int] | None) -> list[int]:
    """Return what a file gives as a token, several or none, as a list."""
    return tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]


def _impossible(what: str) -> ModelError:
    return ModelError(f"config.json: {what} do not divide the model's sizes", code="model-config")


def _parse(text: bytes, shape: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{name} does not describe a Llama-family model: {error}", code="model-config"
        ) from error


def describe_llama(source: ModelSource) -> Description:
    """Say what makes the Llama-family model in a folder; raises ``ModelError``."""
    config = LlamaConfig.parse(source.read("config.json"))
    optional = source.present(*OPTIONAL_FILES)
    if TOKENIZER_CONFIG in optional:
        TokenizerConfig.parse(source.read(TOKENIZER_CONFIG))
    files = ("config.json", "tokenizer.json", *source.weights(), *optional)
    return Description(config.model_type, config.hidden_size, config.max_position_embeddings, files)
