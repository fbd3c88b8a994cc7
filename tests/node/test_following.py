"""What a client that waits for a job is told, however late it listens."""

import base64
from typing import Any

import pytest

from node.api.following import Following
from protocols.errors import JobFailed
from protocols.session import Grown


def told(lines: list[dict[str, Any]]) -> list[Any]:
    return [base64.b64decode(line["output"]) if "output" in line else line for line in lines]


def grow(following: Following, body: bytes, *, is_anew: bool = False) -> None:
    assert following.listener.on_grown is not None
    following.listener.on_grown(Grown(body, is_anew))


async def test_what_came_meanwhile_is_told_together_and_the_rest_with_the_result() -> None:
    following = Following(streams=True)

    grow(following, b"one ")
    grow(following, b"two ")
    first = await following.next_lines()
    following.succeeded(b"one two three", {"fence": 1})
    last = await following.next_lines()

    assert told(first) == [b"one two "]
    assert told(last) == [b"three", {"result": {"fence": 1}}]
    assert following.is_over


async def test_output_that_begins_anew_twice_before_anybody_looks_is_told_as_such() -> None:
    following = Following(streams=True)
    grow(following, b"one ")
    await following.next_lines()

    grow(following, b"uno ", is_anew=True)
    grow(following, b"eins ", is_anew=True)

    assert told(await following.next_lines()) == [{"restart": True}, b"eins "]


async def test_output_that_begins_anew_before_any_was_told_is_no_news() -> None:
    following = Following(streams=True)
    grow(following, b"one ")
    grow(following, b"uno ", is_anew=True)

    assert told(await following.next_lines()) == [b"uno "]


async def test_a_result_that_is_shorter_than_what_was_told_begins_anew() -> None:
    following = Following(streams=True)
    grow(following, b"one two")
    await following.next_lines()
    following.succeeded(b"one", {})

    assert told(await following.next_lines()) == [{"restart": True}, b"one", {"result": {}}]


async def test_a_failure_is_raised() -> None:
    following = Following(streams=False)
    following.failed(JobFailed("no"))

    with pytest.raises(JobFailed):
        await following.next_lines()
