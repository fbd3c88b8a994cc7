"""Chats and completions that come whole."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.api.openai.front import MAX_PROMPT_BODY_BYTES
from node.runner.kinds import generate
from protocols.errors import JobFailed
from tests.support.api import (
    WRITER,
    Api,
    AsgiClient,
    a_pair,
    a_writing_pair,
    error_of,
    one_answer,
    serving,
)
from tests.support.jobs import JobNode
from tests.support.transports import until

HELLO = [{"role": "user", "content": "hello you there"}]


async def chat(api: Api, messages: Any = HELLO, **more: Any) -> Any:
    body = {"model": WRITER, "messages": messages, **more}
    return await api.client.post("/v1/chat/completions", json=body)


async def complete(api: Api, prompt: Any, **more: Any) -> Any:
    body = {"model": WRITER, "prompt": prompt, **more}
    return await api.client.post("/v1/completions", json=body)


def asked(worker: JobNode) -> generate.GenerateInput:
    """What the only job there was asks for."""
    (request,) = worker.runners.requests
    return generate.decode_input(request.input)


async def test_a_chat_is_answered_by_another_peer(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await chat(api)

    answer = response.json()
    assert response.status_code == 200
    assert answer["object"] == "chat.completion"
    assert answer["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert answer["created"] == submitter.effects.now_us() // 1_000_000
    assert answer["model"] == WRITER
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "HELLO YOU THERE", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert worker.runners.finished == 1


async def test_messages_of_every_form_reach_the_model(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "name": None},
        {"role": "user", "content": ""},
        {"role": "user", "content": "d"},
    ]

    async with mesh.running(), serving(submitter) as api:
        response = await chat(api, messages)

    assert response.status_code == 200
    assert asked(worker).items == [
        [
            generate.Message("system", "be brief"),
            generate.Message("user", "a\nb"),
            generate.Message("assistant", "c"),
            generate.Message("user", ""),
            generate.Message("user", "d"),
        ]
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": 2}, {"max_tokens": 2, "temperature": 1.0, "top_p": 1.0, "stop": ()}),
        ({"max_completion_tokens": 3, "max_tokens": None}, {"max_tokens": 3}),
        ({"temperature": 0, "top_p": 0.5, "seed": 7}, {"temperature": 0.0, "top_p": 0.5}),
        ({"seed": 7}, {"seed": 7, "max_tokens": 256}),
        ({"seed": -1}, {"seed": generate.MAX_SEED}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"user": "me", "metadata": {"a": "b"}, "store": False, "n": 1, "tools": []}, {}),
        ({"response_format": {"type": "text"}, "logprobs": False, "presence_penalty": 0.0}, {}),
    ],
)
async def test_parameters_become_the_jobs(
    autojump_clock: MockClock, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await chat(api, **given)

    parameters = asked(worker).parameters
    assert response.status_code == 200
    assert {name: getattr(parameters, name) for name in expected} == expected


async def test_without_a_seed_no_two_answers_have_the_same(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        await chat(api)
        await chat(api)

    seeds = {generate.decode_input(each.input).parameters.seed for each in worker.runners.requests}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"store": True}, "store"),
        ({"echo": True}, "echo"),
        ({"prompt": "x"}, "prompt"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [*HELLO, {"content": [{"type": "image_url"}]}]}, "messages[1].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, None),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, None),
        ({"stop": ["x"] * 9}, "stop"),
        ({"stop": [1]}, None),
        ({"stream_options": {"include_all": True}}, None),
        ({"model": ""}, None),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_name(
    autojump_clock: MockClock, given: dict[str, Any], param: str | None
) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await chat(api, **{"messages": HELLO, **given})

    error = error_of(response)
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param is None or param in error["message"]
    assert not worker.runners.requests


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"x"'])
async def test_a_body_that_is_no_object_is_refused(
    autojump_clock: MockClock, content: bytes
) -> None:
    mesh, submitter, _ = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post("/v1/chat/completions", content=content)

    assert response.status_code == 400
    assert error_of(response)["code"] == "bad-input"


async def test_prompts_are_completed_one_by_one(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await complete(api, ["one two three", "four"], max_tokens=2)

    answer = response.json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "ONE TWO", "logprobs": None, "finish_reason": "length"},
        {"index": 1, "text": "FOUR", "logprobs": None, "finish_reason": "stop"},
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert asked(worker).items == ["one two three", "four"]


async def test_a_completion_is_as_short_as_the_interface_says(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        await complete(api, "one")

    assert asked(worker).parameters.max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "more", "param"),
    [
        ([1, 2], {}, "prompt"),
        ([[1], [2]], {}, "prompt"),
        ("", {}, None),
        ([], {}, None),
        (7, {}, "prompt"),
        ("x", {"echo": True}, "echo"),
        ("x", {"best_of": 2}, "best_of"),
        ("x", {"suffix": "y"}, "suffix"),
        ("x", {"max_completion_tokens": 3}, "max_completion_tokens"),
    ],
)
async def test_completions_that_cannot_be_are_refused_by_name(
    autojump_clock: MockClock, prompt: Any, more: dict[str, Any], param: str | None
) -> None:
    mesh, submitter, worker = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await complete(api, prompt, **more)

    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert not worker.runners.requests


async def test_a_prompt_that_the_model_cannot_hold_has_its_own_code(
    autojump_clock: MockClock,
) -> None:
    failed = JobFailed("item 0 has 9,000 tokens", code=generate.TOO_LONG)
    mesh, submitter, _ = a_writing_pair(error=failed)

    async with mesh.running(), serving(submitter) as api:
        responses = [await chat(api), await chat(api, stream=True)]

    for response in responses:
        error = error_of(response)
        assert response.status_code == 400
        assert error["code"] == "context_length_exceeded"
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_models_that_are_not_there_or_for_something_else_are_named(
    autojump_clock: MockClock, stream: bool
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        missing = await chat(api, stream=stream)
        other = await chat(api, model="minilm", stream=stream)

    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")
    assert (other.status_code, error_of(other)["param"]) == (400, "model")
    assert "minilm is a model for embed" in error_of(other)["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_body_that_no_job_could_be_made_of_is_refused_before_it_is_read(
    autojump_clock: MockClock, path: str
) -> None:
    mesh, submitter, _ = a_writing_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.post(path, content=bytes(MAX_PROMPT_BODY_BYTES + 1))

    assert response.status_code == 413
    assert error_of(response)["code"] == "too-big"


async def test_an_answer_to_fewer_prompts_is_not_passed_on(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_writing_pair(output_of=one_answer)

    async with mesh.running(), serving(submitter) as api:
        response = await complete(api, ["one", "two"])

    assert response.status_code == 502
    assert error_of(response)["code"] == "bad-output"


async def test_prompt_tokens_that_a_worker_does_not_count_are_not_made_up(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_writing_pair(facts={})

    async with mesh.running(), serving(submitter) as api:
        response = await chat(api)

    assert response.json()["usage"] is None


async def test_a_client_that_goes_away_before_its_answer_cancels_the_job(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_writing_pair(hold=True)

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        client = AsgiClient("/v1/chat/completions", {"model": WRITER, "messages": HELLO})
        nursery.start_soon(client.ask, api)
        await until(lambda: worker.runners.running == 1)
        client.gone.set()
        await until(lambda: worker.runners.cancelled == 1)

    assert client.statuses == [499]
