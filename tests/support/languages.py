"""A language model without weights: it says the text before ``|`` backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.runner.kinds import Facts

END = 256


@dataclass
class BackwardsModel:
    """Bytes are its tokens. A prompt with ``!`` breaks it, one with ``?`` gives no numbers."""

    context: int = 64
    room: int = 1_000
    piece_tokens: int = 64
    reads: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    execution: Facts = field(default_factory=lambda: {"engine": "test", "threads": 1})
    opened: dict[int, int] = field(default_factory=dict)

    def open(self, tokens: int) -> list[int] | None:
        if sum(self.opened.values()) + tokens > self.room:
            return None
        cache: list[int] = []
        self.opened[id(cache)] = tokens
        self._kept = [*getattr(self, "_kept", []), cache]  # so that no id comes twice
        return cache

    def close(self, cache: list[int]) -> None:
        del self.opened[id(cache)]

    def read(self, cache: list[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        self.reads.append(len(tokens))
        cache.extend(tokens)
        if ord("!") in tokens:
            raise ValueError("boom")
        return _logits(cache)

    def write(self, caches: Sequence[list[int]], tokens: Sequence[int]) -> NDArray[np.float32]:
        self.batches.append(len(caches))
        for cache, token in zip(caches, tokens, strict=True):
            assert len(cache) < self.opened[id(cache)], "no more than was set aside"
            cache.append(token)
        return np.stack([_logits(cache) for cache in caches])


def _logits(history: list[int]) -> NDArray[np.float32]:
    logits = np.full(END + 1, -4.0, dtype=np.float32)
    prompt, _, said = bytes(history).partition(b"|")
    wanted = prompt[::-1]
    logits[wanted[len(said)] if len(said) < len(wanted) else END] = 4.0
    if b"?" in prompt:
        logits[:] = np.nan
    return logits


class Bytes:
    """Text of bytes, in whole characters."""

    def __init__(self) -> None:
        self._held = b""

    def add(self, token: int) -> str:
        self._held += bytes([token])
        try:
            text = self._held.decode()
        except UnicodeDecodeError:
            return ""
        self._held = b""
        return text


class ByteText:
    """Its tokens are the bytes of Latin-1; a chat is its contents, and ``|``."""

    ends = frozenset((END,))

    def tokenise(self, prompt: str | list[dict[str, str]], most: int) -> list[int]:
        if isinstance(prompt, str):
            return list(prompt.encode("latin-1"))
        return [*"".join(message["content"] for message in prompt).encode("latin-1"), ord("|")]

    def continuation(self) -> Bytes:
        return Bytes()
