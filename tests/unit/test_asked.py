"""What requests for continuations ask for, without an API."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from node.api.openai import asked
from node.api.openai.errors import ApiError
from node.runner.kinds import BadInputError, generate
from protocols.limits import MAX_CHAT_MESSAGES

MANY = 100_000
EMPTIES = b",".join([b"{}"] * MANY)
MESSAGE = {"role": "user", "content": "hi"}


def chat(**changes: Any) -> asked.Wanted:
    return asked.chat(json.dumps({"model": "m", "messages": [MESSAGE], **changes}).encode(), 1)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[' + EMPTIES + b"]}",
        b'{"model":"m","messages":[{"role":"user","content":[' + EMPTIES + b"]}]}",
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[' + EMPTIES + b"]}",
        b'{"model":"m","messages":[{"role":"user","content":"hi","tools":[' + EMPTIES + b"]}]}",
        b'{"model":"m","messages":[],"metadata":[' + b",".join([b"[[]]"] * MANY) + b"]}",
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stop":['
        + b",".join([b'""'] * MANY)
        + b"]}",
    ],
)
def test_a_body_does_not_become_much_larger_than_it_is_before_it_is_refused(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((ApiError, BadInputError)):
            asked.chat(body, 1)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 40 * len(body)


def test_no_tokens_at_all_are_not_the_usual_number_of_them() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(BadInputError, match="max_tokens"):
            chat(**{name: 0})
    assert chat(max_completion_tokens=3, max_tokens=7).tokens == 3
    assert chat(max_completion_tokens=None, max_tokens=7).tokens == 7
    assert chat().tokens == 256


def test_more_messages_than_a_chat_may_have_are_told_by_their_number() -> None:
    with pytest.raises(ApiError, match=f"{MAX_CHAT_MESSAGES + 1} messages"):
        chat(messages=[MESSAGE] * (MAX_CHAT_MESSAGES + 1))


def test_a_message_may_come_in_parts_and_with_fields_that_say_nothing() -> None:
    parts = [{"type": "text", "text": "zażółć"}, {"type": "text", "text": "🦜"}]
    message = {"role": "developer", "content": parts, "tool_calls": [], "refusal": None}

    wanted = chat(messages=[message, {"role": "assistant"}], tools=[], metadata={"a": "b"})

    (messages,) = generate.decode_input(wanted.content).items
    assert messages == [
        generate.Message("system", "zażółć\n🦜"),
        generate.Message("assistant", ""),
    ]
