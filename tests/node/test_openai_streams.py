"""Chats and completions that come as server-sent events."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from node.api.openai import events
from node.runner import text_output
from protocols.errors import JobFailed
from tests.support.api import (
    WRITER,
    AsgiClient,
    a_writing_pair,
    add_writer,
    events_of,
    one_answer,
    said,
    serving,
)
from tests.support.jobs import JobMesh
from tests.support.transports import until

WORDS = "one two three four five six seven eight"
SLOWLY = {"emits": True, "pace_s": 1.0}


def asking(**more: Any) -> AsgiClient:
    """A client that wants as many words as there are, so that they come in as many steps."""
    message = {"role": "user", "content": WORDS}
    body = {"model": WRITER, "messages": [message], "stream": True, "max_tokens": 8, **more}
    return AsgiClient("/v1/chat/completions", body)


def text_of(content: bytes) -> str:
    deltas = [each["choices"][0]["delta"] for each in events_of(content) if each.get("choices")]
    return "".join(delta.get("content", "") for delta in deltas)


async def test_events_are_the_role_text_the_reason_and_what_was_counted(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_writing_pair(**SLOWLY)
    client = asking(stream_options={"include_usage": True})

    async with mesh.running(), serving(submitter) as api:
        await client.ask(api)

    first, *middle, reason, last = events_of(client.content)
    assert client.content.endswith(b"\n\ndata: [DONE]\n\n")
    assert {each["id"] for each in [first, *middle, reason, last]} == {first["id"]}
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert all(each["usage"] is None for each in middle)
    assert all(list(each["choices"][0]["delta"]) == ["content"] for each in middle)
    assert text_of(client.content) == WORDS.upper()
    assert (reason["choices"][0]["delta"], reason["choices"][0]["finish_reason"]) == ({}, "length")
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    assert last["system_fingerprint"].startswith("fp_")


async def test_the_first_text_is_there_long_before_the_last(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair(**SLOWLY)
    client = asking()

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, api)
        await until(lambda: b"ONE" in client.content)
        is_under_way = worker.runners.running == 1 and not client.is_answered

    assert is_under_way
    assert text_of(client.content) == WORDS.upper()
    assert "usage" not in events_of(client.content)[0]


async def test_completions_come_one_after_the_other(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_writing_pair(**SLOWLY)
    body = {"model": WRITER, "prompt": ["a b", "c"], "stream": True, "max_tokens": 4}
    client = AsgiClient("/v1/completions", body)

    async with mesh.running(), serving(submitter) as api:
        await client.ask(api)

    told = [each["choices"][0] for each in events_of(client.content)]
    assert {each["object"] for each in events_of(client.content)} == {"text_completion"}
    assert [(each["index"], each["text"], each["finish_reason"]) for each in told] == [
        (0, "A", None),
        (0, " B", None),
        (0, "", "stop"),
        (1, "C", None),
        (1, "", "stop"),
    ]


async def test_a_client_that_breaks_off_frees_the_worker(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_writing_pair(**SLOWLY)
    client = asking()

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, api)
        await until(lambda: b"TWO" in client.content)
        client.gone.set()
        await until(lambda: worker.runners.cancelled == 1)

    assert not client.is_answered
    assert b"error" not in client.content


async def test_a_client_that_reads_slowly_misses_nothing_and_gets_it_in_few_events(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, worker = a_writing_pair(**SLOWLY)
    client = asking()

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, api)
        await until(lambda: b"ONE" in client.content)
        client.reads = trio.Event()
        await until(lambda: worker.runners.finished == 1)
        client.reads.set()

    assert text_of(client.content) == WORDS.upper()
    assert len(events_of(client.content)) <= 6
    assert client.is_answered


async def test_a_client_that_takes_nothing_counts_as_gone(autojump_clock: MockClock) -> None:
    words = int(2 * events.STALLED_S)
    mesh, submitter, worker = a_writing_pair(**SLOWLY)
    message = {"role": "user", "content": "word " * words}
    client = asking(messages=[message], max_tokens=words)

    async with mesh.running(), serving(submitter, timeout_s=600) as api:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask, api)
            await until(lambda: b"WORD" in client.content)
            client.reads = trio.Event()
        await until(lambda: worker.runners.cancelled == 1)

    assert not client.is_answered


async def test_an_error_after_text_is_the_last_event(autojump_clock: MockClock) -> None:
    failed = JobFailed("the model computed NaN", code="bad-output")
    mesh, submitter, _ = a_writing_pair(**SLOWLY, error=failed)
    client = asking()

    async with mesh.running(), serving(submitter) as api:
        await client.ask(api)

    *_, last = events_of(client.content)
    assert client.statuses == [200]
    assert client.is_answered
    assert b"[DONE]" not in client.content
    assert last["error"]["code"] == "bad-output"
    assert last["error"]["type"] == "server_error"
    assert "NaN" in last["error"]["message"]


async def test_an_answer_to_fewer_prompts_ends_in_an_error(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_writing_pair(output_of=one_answer)
    body = {"model": WRITER, "prompt": ["one", "two"], "stream": True}
    client = AsgiClient("/v1/completions", body)

    async with mesh.running(), serving(submitter) as api:
        await client.ask(api)

    assert events_of(client.content)[-1]["error"]["code"] == "bad-output"


async def test_parts_that_say_nothing_end_the_stream_as_soon_as_they_come(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_writing_pair(
        **SLOWLY, output_of=lambda _: text_output.piece(0, "", None, 0) * 1_000
    )
    client = asking()

    async with mesh.running(), serving(submitter) as api:
        await client.ask(api)

    assert client.statuses == [502]
    assert b"says nothing" in client.content
    assert b"choices" not in client.content


async def test_another_worker_that_writes_the_same_goes_on_unnoticed(
    autojump_clock: MockClock,
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [add_writer(mesh, **SLOWLY) for _ in range(2)]
    client = asking()

    async with mesh.running(), serving(submitter) as api, trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, api)
        await until(lambda: b"THREE" in client.content)
        (first,) = [worker for worker in workers if worker.runners.running]
        mesh.network.partition(submitter.peer_id, first.peer_id)

    assert text_of(client.content) == WORDS.upper()
    assert client.content.endswith(b"data: [DONE]\n\n")
    assert [worker.runners.finished for worker in workers if worker is not first] == [1]


async def test_another_worker_that_writes_otherwise_ends_the_stream(
    autojump_clock: MockClock,
) -> None:
    def otherwise(content: bytes) -> bytes:
        return said(content).replace(b"TWO", b"2nd")

    mesh = JobMesh()
    submitter = mesh.add("submitter")
    workers = [add_writer(mesh, **SLOWLY), add_writer(mesh, **SLOWLY, output_of=otherwise)]
    client = asking()

    async with mesh.running(), serving(submitter) as api:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask, api)
            await until(lambda: b"THREE" in client.content)
            (first,) = [worker for worker in workers if worker.runners.running]
            (second,) = [worker for worker in workers if worker is not first]
            mesh.network.partition(submitter.peer_id, first.peer_id)
        await until(lambda: second.runners.cancelled == 1)

    *_, last = events_of(client.content)
    assert last["error"]["code"] == "restarted"
    assert "ask again" in last["error"]["message"]
    assert b"[DONE]" not in client.content
