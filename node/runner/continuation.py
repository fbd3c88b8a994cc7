"""One prompt on its way to its continuation: what is read, what was written, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from node.runner.kinds.generate import LENGTH, STOP, Parameters
from node.runner.sampler import Sampling, choose
from node.runner.stopping import StopText
from node.runner.text_output import piece


class TokenText(Protocol):
    """The text of tokens that come one after the other."""

    def add(self, token: int) -> str:
        """Return the text that this token completes, in whole characters."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be continued: prompt ``item`` of a job, as tokens, by at most ``limit``."""

    job: int
    item: int
    prompt: Sequence[int]
    limit: int
    parameters: Parameters
    ends: frozenset[int]


class Continuation:
    """One sequence. ``unread`` tokens are to be computed next; then ``take`` the logits after
    them.
    """

    def __init__(self, ask: Ask, text: TokenText, cache: Any) -> None:
        self.ask = ask
        self.cache = cache
        self.unread: Sequence[int] = ask.prompt
        self.is_over = False
        self.written = 0
        """Tokens of the continuation so far."""
        parameters = ask.parameters
        self._sampling = Sampling(parameters.temperature, parameters.top_p, parameters.seed)
        self._text = text
        self._stop = StopText(parameters.stop)
        self._untold = 0

    def was_read(self, count: int) -> None:
        """The first ``count`` unread tokens were computed."""
        self.unread = self.unread[count:]

    def take(self, logits: NDArray[np.float32]) -> bytes:
        """Choose the next token; return the part of the output that it completes, or nothing.

        Raises ``BadOutputError`` for logits that are not finite.
        """
        ask = self.ask
        token = choose(logits, self._sampling, ask.item, self.written)
        self.written += 1
        self._untold += 1
        self.unread = (token,)
        if token in ask.ends:
            return self._end(STOP, self._stop.end())
        shown = self._stop.add(self._text.add(token))
        if self._stop.is_over:
            return self._end(STOP, shown)
        if self.written == ask.limit:
            return self._end(LENGTH, shown + self._stop.end())
        return self._tell(shown, None) if shown else b""

    def _end(self, reason: str, shown: str) -> bytes:
        self.is_over = True
        return self._tell(shown, reason)

    def _tell(self, shown: str, reason: str | None) -> bytes:
        tokens, self._untold = self._untold, 0
        return piece(self.ask.item, shown, reason, tokens)
