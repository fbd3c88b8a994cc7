"""What the files of a model for a Transformers pipeline say about it, without Transformers.

A model does what its architecture was made for; the table below is all that may run. A model that
brings code is refused by name of the field that would load it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, cast

import msgspec

from node.manifest import ModelError
from node.model_source import Description, ModelSource
from node.runner.backends.bert import Size, parse

AUTO: Final = "auto"
TASKS: Final = {
    "text-classification": "ForSequenceClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "fill-mask": "ForMaskedLM",
}
"""What may run, and how the names of the architectures end that can do it. ``auto`` is a model's
first.
"""

WHAT: Final = "a model for a Transformers pipeline"
REQUIRED_FILES: Final = ("config.json", "tokenizer.json")
TOKENIZER: Final = "tokenizer_config.json"
CLASS_NAME: Final = re.compile(r"[A-Za-z0-9]{1,80}")
POSITIONS: Final = 512  # of a model that does not say how many it has


class PipelineConfig(msgspec.Struct, frozen=True):
    """The part of ``config.json`` that decides what a model is for."""

    model_type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    architectures: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1)]
    max_position_embeddings: Size = POSITIONS
    auto_map: Any = None

    @property
    def architecture(self) -> str:
        """The name of the class in Transformers that computes it."""
        return self.architectures[0]

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can do, the usual first."""
        return tuple(task for task, end in TASKS.items() if self.architecture.endswith(end))

    @classmethod
    def parse(cls, text: bytes) -> PipelineConfig:
        """Return the configuration in ``text``; raises ``ModelError`` for one that brings code, and
        for an architecture that does nothing which may run.
        """
        config: PipelineConfig = parse(text, cls, "config.json", WHAT)
        if config.auto_map is not None:
            raise brings_code("config.json")
        if not CLASS_NAME.fullmatch(config.architecture) or not config.tasks:
            raise ModelError(
                f"config.json: no pipeline for {config.architecture[:80]!r} may run here",
                code="model-config",
                hint=f"there are {', '.join(TASKS)}",
            )
        return config


class TokenizerConfig(msgspec.Struct, frozen=True):
    """The part of ``tokenizer_config.json`` that is not in ``tokenizer.json``: which tokens are
    special, as text or with their ``content``.
    """

    pad_token: Any = None
    unk_token: Any = None
    cls_token: Any = None
    sep_token: Any = None
    mask_token: Any = None
    bos_token: Any = None
    eos_token: Any = None
    model_max_length: float = 1e30
    auto_map: Any = None

    @classmethod
    def parse(cls, text: bytes | None) -> TokenizerConfig:
        """Return the configuration in ``text``, the usual one without; raises ``ModelError`` for
        one that brings code.
        """
        config: TokenizerConfig = parse(text or b"{}", cls, TOKENIZER, WHAT)
        if config.auto_map is not None:
            raise brings_code(TOKENIZER)
        if not config.model_max_length >= 1:
            raise ModelError(f"{TOKENIZER}: no text fits this model", code="model-config")
        return config

    def special_tokens(self) -> dict[str, str]:
        """Return the special tokens that there are, by name."""
        told = {name: getattr(self, name) for name in self.__struct_fields__ if "token" in name}
        texts = {
            name: cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token
            for name, token in told.items()
        }
        return {name: text for name, text in texts.items() if isinstance(text, str)}


def describe_pipeline(source: ModelSource) -> Description:
    """Return what makes the model in a folder; raises ``ModelError``."""
    config = PipelineConfig.parse(source.read("config.json"))
    optional = source.present(TOKENIZER)
    if optional:
        TokenizerConfig.parse(source.read(TOKENIZER))
    return Description(
        architecture=config.architecture,
        dimension=1,
        max_tokens=config.max_position_embeddings,
        files=(*REQUIRED_FILES, *source.weights(), *optional),
    )


def brings_code(name: str) -> ModelError:
    """Return the refusal of a model whose ``name`` asks for code of its own."""
    return ModelError(f"{name} asks for code that the model brings (auto_map)", code="model-code")
