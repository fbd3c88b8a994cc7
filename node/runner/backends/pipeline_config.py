"""What the files of a model for a Transformers pipeline say about it, without Transformers.

A model does what its architecture was made for; the table below is all that may run. A model that
brings code is refused by name of the field that would load it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

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
OPTIONAL_FILES: Final = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
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


def check_tokenizer(text: bytes | None) -> None:
    """Raise ``ModelError`` for a ``tokenizer_config.json`` that brings code."""
    if text is not None and "auto_map" in parse(
        text, dict[str, Any], "tokenizer_config.json", WHAT
    ):
        raise brings_code("tokenizer_config.json")


def describe_pipeline(source: ModelSource) -> Description:
    """Return what makes the model in a folder; raises ``ModelError``."""
    config = PipelineConfig.parse(source.read("config.json"))
    optional = source.present(*OPTIONAL_FILES)
    if "tokenizer_config.json" in optional:
        check_tokenizer(source.read("tokenizer_config.json"))
    return Description(
        architecture=config.architecture,
        dimension=1,
        max_tokens=config.max_position_embeddings,
        files=(*REQUIRED_FILES, *source.weights(), *optional),
    )


def brings_code(name: str) -> ModelError:
    """Return the refusal of a model whose ``name`` asks for code of its own."""
    return ModelError(f"{name} asks for code that the model brings (auto_map)", code="model-code")
