"""What requests for continuations ask for: their bodies, checked, as the input of a job.

A parameter that changes the answer and that nothing here can do is refused by its name, unless it
has the value that changes nothing. Those that are for somebody's books are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import msgspec

from node.api.openai.errors import ApiError, bad_request
from node.runner.kinds import Items, generate
from protocols.limits import MAX_NAME_CHARS

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

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None


class CompletionsBody(Body, frozen=True, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[Any]


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
    messages = [_message(place, given) for place, given in enumerate(asked.messages)]
    limit = asked.max_completion_tokens or asked.max_tokens
    return _wanted(asked, [messages], limit, seed)


def completion(body: bytes, seed: int) -> Wanted:
    """As ``chat``, for prompts that are continued as they are."""
    asked = _understood(body, CompletionsBody)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if any(not isinstance(each, str) for each in prompts):
        raise bad_request(
            "prompt holds tokens: send texts, for a model does not know another tokenizer's tokens",
            param="prompt",
        )
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
    try:
        given = msgspec.json.decode(body)
        if not isinstance(given, dict):
            raise bad_request("the body is no JSON object")
        asked = _without_ignored(cast("dict[str, Any]", given), schema)
        return msgspec.convert(asked, schema)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the request is not understood: {error}") from error


def _without_ignored(given: Mapping[str, Any], schema: type[Body]) -> dict[str, Any]:
    """Return the parameters that say something; raises ``ApiError`` for those not supported."""
    asked: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in IGNORED or _is_without_effect(name, value):
            continue
        if name not in schema.__struct_fields__:
            raise bad_request(f"{name[:64]} is not supported: leave it out", param=name[:64])
        asked[name] = value
    return asked


def _is_without_effect(name: str, value: Any) -> bool:
    neutral = WITHOUT_EFFECT.get(name)
    is_alike = isinstance(value, bool) == isinstance(neutral, bool)  # 0 == False, and asks for more
    return neutral is not None and is_alike and value == neutral


def _message(place: int, given: Mapping[str, Any]) -> dict[str, str]:
    """Return one message of a chat; answers that clients send back come with fields that are
    empty.
    """
    said = {name: value for name, value in given.items() if value not in EMPTY}
    role, content = said.pop("role", None), said.pop("content", "")
    if said:
        name = f"messages[{place}].{min(said)[:64]}"
        raise bad_request(f"{name} is not supported: leave it out", param=name)
    where = f"messages[{place}]"
    return {"role": ROLES.get(str(role), str(role)), "content": _text(where, content)}


def _text(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _no_text(where)
    parts = cast("Sequence[Any]", content)
    try:
        return "\n".join(part.text for part in msgspec.convert(parts, list[Part]))
    except msgspec.ValidationError as error:
        raise _no_text(where) from error


def _no_text(where: str) -> ApiError:
    return bad_request(
        f"{where}.content is neither a text nor a list of parts of the type text",
        param=f"{where}.content",
    )
