"""A GGUF file's vocabulary as a ``tokenizer.json``, and its chat template.

Byte-pair vocabularies are taken, with the ways of cutting text into words that are written here;
every other one is refused by name rather than cut differently from how the model learned it.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from node.gguf.header import Header
from node.manifest import ModelError
from node.runner.backends.llama import MAX_TEMPLATE_CHARS

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_BYTE_LEVEL: Final = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_DIGITS: Final = {"type": "Digits", "individual_digits": True}
_WORDS: Final[dict[str, dict[str, Any]]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
}
_TURN_ENDS: Final = frozenset(("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"))
"""Control tokens after which a model that was trained with them has nothing more to say."""


def tokenizer_json(header: Header) -> bytes:
    """Return the text of ``tokenizer.json``; raises ``ModelError`` for a vocabulary that is not
    byte-pair encoding.
    """
    model, words = text_of(header, "tokenizer.ggml.model"), text_of(header, "tokenizer.ggml.pre")
    if model != "gpt2" or words not in _WORDS:
        raise ModelError(
            f"the tokenizer {model}/{words} of this GGUF file is not supported",
            code="model-config",
            hint="give the model's folder, with its tokenizer.json and safetensors",
        )
    tokens = tokens_of(header)
    return _json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added(header, tokens),
            "normalizer": None,
            "pre_tokenizer": _WORDS[words],
            "post_processor": None,
            "decoder": _BYTE_LEVEL,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": _merges(header),
            },
        }
    )


def tokenizer_config_json(header: Header) -> bytes:
    """Return the text of ``tokenizer_config.json``: the chat template, if there is one, and the
    tokens that it may name.
    """
    template = header.metadata.get("tokenizer.chat_template")
    if template is not None and (
        not isinstance(template, str) or len(template) > MAX_TEMPLATE_CHARS
    ):
        raise ModelError(
            f"the chat template is no text of at most {MAX_TEMPLATE_CHARS} characters",
            code="model-config",
        )
    tokens = tokens_of(header)
    named = {
        f"{name}_token": tokens[number]
        for name in ("bos", "eos")
        if (number := _token_number(header, name, len(tokens))) is not None
    }
    adds_bos = header.metadata.get("tokenizer.ggml.add_bos_token") is True
    return _json({"add_bos_token": adds_bos, "chat_template": template, **named})


def end_tokens(header: Header) -> list[int]:
    """Return the tokens that end a continuation: the file's own, and the known ends of a turn."""
    tokens = tokens_of(header)
    own = _token_number(header, "eos", len(tokens))
    kinds = numbers_of_key(header, "tokenizer.ggml.token_type", len(tokens))
    known = [n for n, t in enumerate(tokens) if t in _TURN_ENDS and kinds[n] == _CONTROL]
    return sorted({*known} if own is None else {*known, own})


def tokens_of(header: Header) -> list[str]:
    """Return the vocabulary, by number; raises ``ModelError`` unless it is one."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise _bad("tokenizer.ggml.tokens")
    if len(set(cast("list[str]", tokens))) != len(cast("list[str]", tokens)):
        raise ModelError("the vocabulary has one token twice", code="model-config")
    return cast("list[str]", tokens)


def numbers_of_key(header: Header, key: str, count: int) -> list[int]:
    """Return a list of ``count`` integers of the metadata; raises ``ModelError``."""
    values = header.metadata.get(key)
    if not isinstance(values, list) or len(cast("list[Any]", values)) != count:
        raise _bad(key)
    if not all(type(value) is int for value in cast("list[Any]", values)):
        raise _bad(key)
    return cast("list[int]", values)


def text_of(header: Header, key: str, default: str | None = None) -> str:
    """Return a text of the metadata; raises ``ModelError`` unless it is one."""
    value = header.metadata.get(key, default)
    if not isinstance(value, str):
        raise _bad(key)
    return value


def _added(header: Header, tokens: list[str]) -> list[dict[str, Any]]:
    """Return the tokens that are found in text as a whole, before it is cut into words."""
    kinds = numbers_of_key(header, "tokenizer.ggml.token_type", len(tokens))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": tokens[number], **flags, "special": kind == _CONTROL}
        for number, kind in enumerate(kinds)
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def _merges(header: Header) -> list[list[str]]:
    merges = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise _bad("tokenizer.ggml.merges")
    pairs = [str(merge).split(" ") for merge in cast("list[Any]", merges)]
    if not all(len(pair) == 2 for pair in pairs):
        raise _bad("tokenizer.ggml.merges")
    return pairs


def _token_number(header: Header, name: str, count: int) -> int | None:
    number = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
    if number is not None and (type(number) is not int or not 0 <= number < count):
        raise _bad(f"tokenizer.ggml.{name}_token_id")
    return number


def _bad(key: str) -> ModelError:
    return ModelError(f"the GGUF file has no valid {key}", code="model-config")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
