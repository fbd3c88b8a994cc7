"""One prompt's continuation as an upstream streams it: the data of its events in, text out, and the
parts that the kind's output has. No I/O.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from node.runner import text_output
from node.runner.kinds import generate
from node.runner.kinds.generate import Parameters, Prompt
from node.upstream.errors import broken, of_status
from protocols.errors import JobFailed
from protocols.limits import MAX_NEW_TOKENS

DONE: Final = "[DONE]"
FINISHED: Final = frozenset({generate.STOP, generate.LENGTH})
FILTERED: Final = "content_filter"
SERVER_ERROR: Final = 500

CHAT: Final = "chat/completions"
TEXT: Final = "completions"


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Continuation:
    """Takes the events of one answer, of ``max_tokens`` tokens at most: an upstream that goes on
    does not what it was asked to. ``is_over`` once there is nothing more to come.
    """

    def __init__(self, index: int, max_tokens: int = MAX_NEW_TOKENS) -> None:
        self.index = index
        self.is_over = False
        self.prompt_tokens: int | None = None
        self.new_tokens: int | None = None
        self._reason: str | None = None
        self._max_tokens = max_tokens
        self._parts_left = text_output.most_parts(max_tokens) - 1

    def take(self, content: str) -> str:
        """Take in one event and return the text that it adds; raises ``JobFailed``."""
        if content == DONE:
            self.is_over = True
            return ""
        event = _decoded(content)
        if event.error is not None:
            raise _told(event.error)
        if event.usage is not None:
            self._count(event.usage)
        added = "".join(self._add(choice) for choice in event.choices if choice.index == 0)
        self._parts_left -= bool(added)
        if self._parts_left < 0:
            raise broken(f"it goes on, past the {self._max_tokens} tokens that were asked for")
        return added

    def last_part(self) -> bytes:
        """Return the part that ends it: its reason, and its tokens as the upstream counted them, 0
        if it did not. Raises ``JobFailed`` for an answer that was cut off.
        """
        if self._reason is None:
            raise broken("it ends in the middle of a text")
        return text_output.piece(self.index, "", self._reason, self.new_tokens or 0)

    def _add(self, choice: _Choice) -> str:
        if self._reason is not None:
            return ""
        text = (choice.delta.content if choice.delta else choice.text) or ""
        if choice.finish_reason == FILTERED:
            raise of_status(400, "", b'{"error": "its content filter stopped the answer"}')
        if choice.finish_reason is not None:
            if choice.finish_reason not in FINISHED:
                raise broken("a text ended for a reason that is neither stop nor length")
            self._reason = choice.finish_reason
        return text

    def _count(self, usage: _Usage) -> None:
        for count in (usage.prompt_tokens, usage.completion_tokens):
            if count is not None and count < 0:
                raise broken("it counts less than no tokens")
        if (usage.completion_tokens or 0) > self._max_tokens:
            raise broken(f"it counts more than the {self._max_tokens} tokens that were asked for")
        self.prompt_tokens = usage.prompt_tokens
        self.new_tokens = usage.completion_tokens


def request(model_id: str, prompt: Prompt, parameters: Parameters) -> tuple[str, bytes]:
    """Return the path and the body of the request for one prompt. What is at OpenAI's default is
    left out, for servers that don't know it.
    """
    body: dict[str, Any] = {
        "model": model_id,
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if parameters.temperature > 0:
        body["seed"] = parameters.seed
        body["top_p"] = parameters.top_p
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if isinstance(prompt, str):
        return TEXT, msgspec.json.encode({**body, "prompt": prompt})
    return CHAT, msgspec.json.encode({**body, "messages": prompt})


def _decoded(content: str) -> _Event:
    try:
        return msgspec.json.decode(content, type=_Event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise broken(f"an event: {str(error)[:100]}") from None


def _told(error: Any) -> JobFailed:
    """Return the failure that an event in the midst of an answer tells; servers put an HTTP status
    into it, or nothing of use.
    """
    code: Any = cast("dict[Any, Any]", error).get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else SERVER_ERROR
    return of_status(status, "it", msgspec.json.encode({"error": error}))
