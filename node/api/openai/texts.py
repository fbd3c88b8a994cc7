"""Texts to work on, as clients send them: one, or a list of them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from node.api.openai.errors import bad_request

TOKENS: Final = re.compile(rb"\s*\[\s*[\[\d-]")


def texts_of(given: msgspec.Raw, param: str) -> list[str]:
    """Return the texts; raises ``ApiError`` for what is none."""
    if TOKENS.match(memoryview(given)):
        raise bad_request(
            f"{param} holds tokens: send texts,"
            " for a model does not know another tokenizer's tokens",
            param=param,
        )
    try:
        texts = msgspec.json.decode(given, type=str | list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise bad_request(f"{param} is neither a text nor a list of texts", param=param) from error
    return [texts] if isinstance(texts, str) else texts
