"""What requests for continuations ask for: their bodies, checked, as the input of a job.

A parameter that changes the answer and that nothing here can do is refused by its name, unless it
has the value that changes nothing. Those that are for somebody's books are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from node.api.openai.errors import ApiError, bad_request
from node.api.openai.texts import texts_of
from node.runner.kinds import Items, generate
from protocols.limits import MAX_CHAT_MESSAGES, MAX_NAME_CHARS

B = TypeVar("B", bound="Body")

IGNORED: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "user",
    }
)
WITHOUT_EFFECT: Final[Mapping[str, Any]] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "store": False,
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
}
"""What parameters that are not supported may be; null is as good as nothing for all."""
ROLES: Final = {"developer": "system"}
"""Roles by the names that models' templates know them by."""
COMPLETION_TOKENS: Final = 16  # what OpenAI's interface says where a completion is not limited
EMPTY: Final[tuple[Any, ...]] = (None, [])
MAX_PLAIN_BYTES: Final = 256  # of what changes nothing: the longest is {"type": "text"}

Fields = dict[str, msgspec.Raw]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``include_obfuscation`` asks for padding that hides a token's length: none is added."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both routes take. Without a seed each answer is another one."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None


class ChatBody(Body, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[msgspec.Raw]
    max_completion_tokens: int | None = None


class CompletionsBody(Body, frozen=True, kw_only=True):
    """``POST /v1/completions``."""

    prompt: msgspec.Raw


class Part(msgspec.Struct, frozen=True):
    """A part of a message's content that is text."""

    type: Literal["text"]
    text: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that was understood: ``content`` is its prompts in the kind's encoding, ``tokens``
    the most that may be written.
    """

    model: str
    content: bytes
    prompts: int
    tokens: int
    is_streamed: bool
    includes_usage: bool


def chat(body: bytes, seed: int) -> Wanted:
    """Return what a chat's body asks for; without a seed of its own it gets ``seed``.

    Raises ``ApiError``, and ``BadInputError`` for what no worker would take.
    """
    asked = _understood(body, ChatBody)
    if len(asked.messages) > MAX_CHAT_MESSAGES:
        raise bad_request(
            f"{len(asked.messages)} messages are more than the {MAX_CHAT_MESSAGES} of one chat",
            param="messages",
        )
    messages = [_message(place, given) for place, given in enumerate(asked.messages)]
    given = asked.max_completion_tokens
    limit = asked.max_tokens if given is None else given
    return _wanted(asked, [messages], limit, seed)


def completion(body: bytes, seed: int) -> Wanted:
    """As ``chat``, for prompts that are continued as they are."""
    asked = _understood(body, CompletionsBody)
    prompts = texts_of(asked.prompt, "prompt")
    limit = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
    return _wanted(asked, prompts, limit, seed)


def _wanted(asked: Body, items: Items, limit: int | None, seed: int) -> Wanted:
    seed = seed if asked.seed is None else asked.seed
    parameters: dict[str, Any] = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": seed % (generate.MAX_SEED + 1),  # theirs may be negative
        "stop": (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop),
    }
    if limit is not None:
        parameters["max_tokens"] = limit
    content = generate.encode_input(items, parameters)
    return Wanted(
        model=asked.model,
        content=content,
        prompts=len(items),
        tokens=generate.count_tokens(content),
        is_streamed=asked.stream,
        includes_usage=asked.stream_options is not None and asked.stream_options.include_usage,
    )


def _understood(body: bytes, schema: type[B]) -> B:
    """Return a body as ``schema`` has it. Nothing of it becomes Python's before its place says of
    what type it is: 48 MiB of empty objects would be 4 GB.
    """
    try:
        given = msgspec.json.decode(body, type=Fields)
        asked = msgspec.json.encode(_without_ignored(given, schema))
        return msgspec.json.decode(asked, type=schema)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the request is not understood: {error}") from error


def _without_ignored(given: Fields, schema: type[Body]) -> Fields:
    """Return the parameters that say something; raises ``ApiError`` for those not supported."""
    asked: Fields = {}
    for name, value in given.items():
        if _plain(value) is None or name in IGNORED or _is_without_effect(name, value):
            continue
        if name not in schema.__struct_fields__:
            raise bad_request(f"{name[:64]} is not supported: leave it out", param=name[:64])
        asked[name] = value
    return asked


def _is_without_effect(name: str, given: msgspec.Raw) -> bool:
    neutral = WITHOUT_EFFECT.get(name)
    if neutral is None:
        return False
    value = _plain(given)
    is_alike = isinstance(value, bool) == isinstance(neutral, bool)  # 0 == False, and asks for more
    return is_alike and value == neutral


def _plain(value: msgspec.Raw) -> Any:
    """Return a value that is small; one that is large says something, whatever it is."""
    return msgspec.json.decode(value) if len(memoryview(value)) <= MAX_PLAIN_BYTES else value


def _message(place: int, given: msgspec.Raw) -> dict[str, str]:
    """Return one message of a chat; answers that clients send back come with fields that are
    empty.
    """
    where = f"messages[{place}]"
    try:
        fields = msgspec.json.decode(given, type=Fields)
        said = {name: value for name, value in fields.items() if _plain(value) not in EMPTY}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"{where} is not understood: {error}", param=where) from error
    role, content = said.pop("role", None), said.pop("content", None)
    if said:
        name = f"{where}.{min(said)[:64]}"
        raise bad_request(f"{name} is not supported: leave it out", param=name)
    role = str(_plain(role) if role is not None else None)[:MAX_PLAIN_BYTES]
    return {"role": ROLES.get(role, role), "content": _text(where, content)}


def _text(where: str, content: msgspec.Raw | None) -> str:
    if content is None:
        return ""
    try:
        text = msgspec.json.decode(content, type=str | list[Part])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_text(where) from error
    return text if isinstance(text, str) else "\n".join(part.text for part in text)


def _no_text(where: str) -> ApiError:
    return bad_request(
        f"{where}.content is neither a text nor a list of parts of the type text",
        param=f"{where}.content",
    )
