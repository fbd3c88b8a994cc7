"""The kind ``generate``: prompts or chats in, their continuations out.

Input is DAG-CBOR: ``{"items": [item, ...], "parameters": {...}}``. An item is a text that the model
continues as it is, or a chat, a list of ``{"role", "content"}`` that the model's own template makes
a text of. Parameters are those of ``Parameters``, for all items.

Output is texts in pieces (``node.runner.text_output``). What a runner emits on the way is exactly
the beginning of it, and where sampling is the same the output is, byte for byte.

``finish_reason`` is ``stop`` after a stop text or when the model has nothing more to say, and
``length`` when ``max_tokens`` or the model's context are used up. ``tokens`` counts every token
that was computed, also the one that ended it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

import msgspec

from node.runner.kinds import (
    EXACT,
    NO_PARAMETERS,
    TORCH,
    BadInputError,
    Difference,
    Engine,
    EngineSettings,
    Item,
    Items,
    bad_item,
)
from node.runner.parameters import Parameter, checked, table_of
from node.runner.text_output import Order, PieceReader, pieces
from protocols import dagcbor
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.limits import (
    MAX_CHAT_MESSAGES,
    MAX_GENERATE_INPUT_BYTES,
    MAX_GENERATE_ITEMS,
    MAX_NEW_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOP_TEXTS,
    MAX_TEMPERATURE,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.files import ModelFiles

MIN_TOP_P: Final = 1e-6  # below it, as with 0, the likeliest token is the only one left
MAX_SEED: Final = (1 << 53) - 1  # exact in every language's numbers
STOP: Final = "stop"
LENGTH: Final = "length"
TOO_LONG: Final = "context-length"
"""The code of a prompt that does not fit into the model's context."""
TOLERANCES: Final = EXACT

StopWord = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_CHARS)]


ITEM_TYPE: Final = str
IS_ARRAY: Final = False
EXAMPLE: Final = "generate --model smollm2 --chat --max-tokens 100 --input questions.txt"
MODEL_KINDS: Final = ("generate",)
PRECISIONS: Final = ("int4", "int8", "bf16", "fp32")
IS_ACCELERATED: Final = True
NEEDS: Final = TORCH


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to continue. With ``temperature`` 0 the likeliest token is taken and ``seed`` does not
    matter; otherwise the same seed gives the same text in the same execution profile.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_NEW_TOKENS)] = 256
    temperature: Annotated[float, msgspec.Meta(ge=0, le=MAX_TEMPERATURE)] = 0.0
    top_p: Annotated[float, msgspec.Meta(ge=MIN_TOP_P, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)] = 0
    stop: Annotated[tuple[StopWord, ...], msgspec.Meta(max_length=MAX_STOP_TEXTS)] = ()


PARAMETERS: Final = (
    *table_of(
        Parameters,
        {
            "max_tokens": "Tokens to write for each item.",
            "temperature": "0 takes the likeliest token.",
            "top_p": "Choose among the likeliest; 1 is all.",
            "seed": "The same seed gives the same text.",
            "stop": "End before this text; repeatable.",
        },
    ),
    Parameter("chat", bool, "Each item is a question in a chat."),
)


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]  # as ``ROLES``
    content: str


Text = Annotated[str, msgspec.Meta(min_length=1)]
Chat = Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_CHAT_MESSAGES)]
Prompt = Text | Chat


class GenerateInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job's input."""

    items: Annotated[list[Prompt], msgspec.Meta(min_length=1, max_length=MAX_GENERATE_ITEMS)]
    parameters: Parameters = Parameters()


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input, every parameter in it; raises ``BadInputError`` for what no worker
    would take. With the parameter ``chat``, a text is what a user says in a chat.
    """
    values = checked(PARAMETERS, parameters)
    is_chat = values.pop("chat", False)
    prompts = [_question(item) if is_chat and isinstance(item, str) else item for item in items]
    for number, prompt in enumerate(prompts):
        _check_prompt(prompt, number)
    wanted = _checked({"items": prompts, "parameters": values})
    try:
        return dagcbor.encode(msgspec.to_builtins(wanted), max_bytes=MAX_GENERATE_INPUT_BYTES)
    except CoveyError as error:
        raise _bad(error) from error


def _question(text: str) -> Item:
    return [{"role": "user", "content": text}]


def decode_input(content: bytes) -> GenerateInput:
    """Return an input; raises ``BadInputError`` unless it is a strict encoding of one."""
    try:
        value = dagcbor.decode(content, max_bytes=MAX_GENERATE_INPUT_BYTES)
    except RemoteProtocolError as error:
        raise _bad(error) from error
    return _checked(value)


def count(content: bytes) -> int:
    """Return how many prompts an input has."""
    return len(decode_input(content).items)


def count_tokens(content: bytes) -> int:
    """Return how many tokens the job may write."""
    wanted = decode_input(content)
    return len(wanted.items) * wanted.parameters.max_tokens


COUNT_TOKENS: Final = count_tokens


READER: Final = PieceReader


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output continues each item of an input to its end,
    by no more tokens than it may.
    """
    wanted = decode_input(content)
    order = Order(len(wanted.items), wanted.parameters.max_tokens)
    for part in pieces(output):
        order.take(part)
    if order.is_within or order.index != len(wanted.items):
        raise RemoteProtocolError(
            f"an output of generate has {order.index} whole texts of {len(wanted.items)}"
        )


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object an item: ``{"index", "text", "finish_reason", "tokens"}``."""
    parts: list[str] = []
    order, tokens = Order(), 0
    for each in map(order.take, pieces(output)):
        parts.append(each.text)
        tokens += each.tokens
        if each.finish_reason is not None:
            yield {
                "index": each.index,
                "text": "".join(parts),
                "finish_reason": each.finish_reason,
                "tokens": tokens,
            }
            parts, tokens = [], 0
    if parts:
        raise RemoteProtocolError(f"an output of generate ends in the middle of item {order.index}")


def array(output: bytes) -> NDArray[np.float32]:
    """Raise ``BadInputError``: texts are not numbers."""
    raise BadInputError("the output of generate is text", hint="write it to a .jsonl file")


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the share of items whose texts, ends or numbers of tokens are not the same."""
    mine, others = list(rows(output)), list(rows(other))
    if len(mine) != len(others):
        return Difference(None, False, f"{len(mine)} items against {len(others)}")
    parted = [index for index, row in enumerate(mine) if row != others[index]]
    if not parted:
        return Difference(0.0, True)
    first, amount = parted[0], len(parted) / len(mine)
    token = _parting(output, first, others[first]["text"])
    return Difference(amount, amount <= tolerance, f"item {first} parts at token {token}")


def _parting(output: bytes, item: int, other: str) -> int:
    """Return which token of an item, counted from 1, is the first that the other text has not."""
    shared, tokens = "", 1
    for each in pieces(output):
        if each.index == item:
            shared += each.text
            if not other.startswith(shared) or each.finish_reason is not None:
                break
            tokens += each.tokens
    return tokens


ROLES: Final = ("system", "user", "assistant")
FIELDS: Final = ("role", "content")


def _check_prompt(item: Any, number: int) -> None:
    """Raise ``BadInputError`` that names an item which is none, and the message of a chat."""
    if item == "":
        raise bad_item(
            number, " is empty", hint="remove blank lines; --whole takes all as one text"
        )
    if not isinstance(item, list):
        return
    messages = cast("list[Any]", item)
    if not 0 < len(messages) <= MAX_CHAT_MESSAGES:
        count = f" has {len(messages) or 'no'} messages"
        hint = f"a chat has 1 to {MAX_CHAT_MESSAGES}"
        raise bad_item(number, count, hint=hint, parameter="messages")
    for place, given in enumerate(messages):
        if (wrong := _wrong_with(given)) is not None:
            raise bad_item(number, f": messages[{place}] {wrong}", parameter="messages")


def _wrong_with(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "is no object with role and content"
    given = cast("dict[Any, Any]", message)
    for name in given:
        if name not in FIELDS:
            return f"has a field {str(name)[:32]!r}: it has role and content"
    if given.get("role") not in ROLES:
        return f"has the role {str(given.get('role'))[:32]!r}: roles are {', '.join(ROLES)}"
    return None if isinstance(given.get("content"), str) else "has no text as its content"


def _checked(value: Any) -> GenerateInput:
    try:
        wanted = msgspec.convert(value, GenerateInput)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _bad(error) from error
    parameters = wanted.parameters
    # -0.0 has no place in DAG-CBOR, and adding zero makes it 0.0
    plain = msgspec.structs.replace(parameters, temperature=parameters.temperature + 0.0)
    return msgspec.structs.replace(wanted, parameters=plain)


def _bad(error: Exception) -> BadInputError:
    return BadInputError(f"the input is not what generate takes: {str(error)[:300]}")


# The node's side


def describe(source: ModelSource) -> Description:
    """Say what makes the language model in a folder; raises ``ModelError``."""
    from node.runner.backends.llama import describe_llama

    return describe_llama(source)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.backends.torch_llama import load_model
    from node.runner.generator import GenerateEngine

    engine = GenerateEngine(*load_model(files, settings))
    engine.warm_up()
    return engine
