"""Jobs at an upstream that works, and at one that does everything wrong; on a clock of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.config import Upstream as Options
from node.fair_queue import Asker
from node.run_request import RunRequest
from node.runner import text_output
from node.runner.kinds import embed, generate
from node.runner_job import RunOutcome
from node.upstream.client import UpstreamClient
from node.upstream.errors import (
    BROKEN,
    MISSING,
    REFUSED,
    TIMEOUT,
    UNAUTHORISED,
    UNAVAILABLE,
)
from node.upstream.pool import Upstream
from protocols.errors import JobFailed
from protocols.limits import (
    MAX_UPSTREAM_STREAM_BYTES,
    MAX_UPSTREAM_WHOLE_BYTES,
    UPSTREAM_POLL_S,
)
from tests.support.openai_server import (
    HOLD,
    FakeOpenAi,
    MemoryServer,
    Reply,
    error,
    stream,
)
from tests.support.transports import until

PEER = "12D3KooWPeer"
END = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
QUESTION = [{"role": "user", "content": "one two three"}]
OPTIONS = Options("http://up/v1", embeddings=("vectors",), first_byte_s=20, silence_s=5)


@dataclass
class Seen:
    """What a job's worker saw of it."""

    pieces: list[bytes] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Serving:
    """An upstream in use, and how often its models changed."""

    fake: FakeOpenAi
    upstream: Upstream
    changes: int = 0

    async def changed(self) -> None:
        self.changes += 1

    async def run(self, request: RunRequest, seen: Seen | None = None) -> RunOutcome:
        seen = seen or Seen()
        model = self.upstream.models[request.model]
        follow = lambda done, total: seen.progress.append((done, total))  # noqa: E731
        return await self.upstream.run(model, request, follow, seen.pieces.append)


@asynccontextmanager
async def serving(
    fake: FakeOpenAi | None = None, options: Options = OPTIONS, token: str = ""
) -> AsyncGenerator[Serving]:
    """Use an upstream until the block ends; it was looked at once."""
    fake = fake or FakeOpenAi()
    served = Serving(fake, Upstream(options, token, PEER))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx.AsyncClient(
            transport=MemoryServer(fake), base_url=options.url, headers=headers
        ) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(served.upstream.use, UpstreamClient(http), served.changed)
        await wait_all_tasks_blocked()
        yield served
        nursery.cancel_scope.cancel()


def generating(*items: Any, submitter: str = "one", **parameters: Any) -> RunRequest:
    content = generate.encode_input(list(items), parameters)
    count = generate.count_tokens(content)
    return RunRequest("chatty", "generate", "upstream", content, count, submitter)


def embedding(*texts: str, submitter: str = "one") -> RunRequest:
    content = embed.encode_input(list(texts))
    return RunRequest("vectors", "embed", "upstream", content, len(texts), submitter)


async def failure(served: Serving, request: RunRequest) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await served.run(request)
    return caught.value


# What works


async def test_a_chat_is_answered_word_by_word(autojump_clock: MockClock) -> None:
    seen = Seen()

    async with serving() as served:
        outcome = await served.run(generating(QUESTION, max_tokens=2), seen)

    assert list(generate.rows(outcome.output)) == [
        {"index": 0, "text": "ONE TWO ", "finish_reason": "length", "tokens": 2}
    ]
    assert outcome.output.startswith(seen.pieces[0])
    assert [part.text for part in text_output.pieces(seen.pieces[0])] == ["ONE "]
    assert len(seen.pieces) == 1, "the rest came at the same time"
    assert seen.progress[-1] == (2, 2)
    assert outcome.execution == {
        "backend": "openai",
        "precision": "upstream",
        "upstream_model": "chatty",
        "requests": 1,
        "prompt_tokens": 3,
        "new_tokens": 2,
    }


async def test_text_is_told_while_it_comes_but_not_more_often_than_one_can_see(
    autojump_clock: MockClock,
) -> None:
    fake, seen = FakeOpenAi(), Seen()
    word = {"choices": [{"delta": {"content": "a "}}]}

    async with serving(fake) as served:
        fake.faults["completions"] = lambda: stream(*[word, 0.03] * 50, END)
        outcome = await served.run(generating(QUESTION), seen)

    assert 10 < len(seen.pieces) < 16, "in a second and a half"
    assert outcome.output.startswith(b"".join(seen.pieces))
    assert [row["text"] for row in generate.rows(outcome.output)] == ["a " * 50 + "a"]


async def test_many_prompts_come_in_their_order_however_their_answers_do(
    autojump_clock: MockClock,
) -> None:
    seen, texts = Seen(), [f"word{number} " * (40 - number) for number in range(40)]

    async with serving() as served:
        outcome = await served.run(generating(*texts), seen)

    rows = list(generate.rows(outcome.output))
    assert [row["text"].strip() for row in rows] == [text.strip().upper() for text in texts]
    assert outcome.output.startswith(b"".join(seen.pieces))
    assert served.fake.most_open == OPTIONS.requests
    assert len(served.fake.of("completions")) == 40, "texts are continued, not chatted with"


async def test_texts_become_vectors_in_requests_of_a_bearable_size(
    autojump_clock: MockClock,
) -> None:
    texts = ["x" * (number % 50 + 1) for number in range(100)]

    async with serving() as served:
        outcome = await served.run(embedding(*texts))

    vectors = embed.array(outcome.output)
    assert vectors.shape == (100, 4)
    assert np.array_equal(vectors[:, 0], [len(text) for text in texts])
    assert outcome.execution["tokens"] == sum(map(len, texts))
    asked = [len(body["input"]) for body in served.fake.of("embeddings")]
    assert asked[0] == 1, "to learn the dimension"
    assert sorted(asked[1:]) == [4, 32, 32, 32]


async def test_long_texts_travel_in_smaller_requests(autojump_clock: MockClock) -> None:
    async with serving() as served:
        await served.run(embedding(*["x" * 60_000] * 10))

    asked = [len(body["input"]) for body in served.fake.of("embeddings")]
    assert sorted(asked) == [1, 2, 4, 4]


async def test_the_models_are_offered_by_the_names_and_kinds_of_the_configuration(
    autojump_clock: MockClock,
) -> None:
    options = Options(
        "http://up/v1", models=("tiny=chatty", "vectors", "gone"), embeddings=("vectors",)
    )

    async with serving(options=options) as served:
        models = served.upstream.models
        status = served.upstream.status()

    assert {(m.name, m.id, m.kind, m.dimension) for m in models.values()} == {
        ("tiny", "chatty", "generate", 0),
        ("vectors", "vectors", "embed", 4),
    }
    assert status is not None
    assert (status["state"], status["models"]) == ("up", ["tiny", "vectors"])
    assert status["left_out"] == {"gone": "the upstream does not list it"}


async def test_a_model_that_cannot_embed_is_not_offered(autojump_clock: MockClock) -> None:
    fake = FakeOpenAi(faults={"embeddings": lambda: error(400, "this model can't")})

    async with serving(fake) as served:
        assert set(served.upstream.models) == {"chatty"}
        assert "can't" in (served.upstream.status() or {})["left_out"]["vectors"]


# What does not


CHAT_FAULTS: list[tuple[Callable[[], Reply], str]] = [
    (lambda: error(400, "too long"), REFUSED),
    (lambda: error(401), UNAUTHORISED),
    (lambda: error(404), MISSING),
    (lambda: error(429), UNAVAILABLE),
    (lambda: error(500), UNAVAILABLE),
    (lambda: Reply(500, [b"<html>"]), UNAVAILABLE),
    (lambda: Reply(500, [HOLD]), TIMEOUT),
    (lambda: Reply(503, [b"x", HOLD]), UNAVAILABLE),
    (lambda: Reply(302, [b""], headers={"location": "http://evil.example/"}), BROKEN),
    (lambda: Reply(200, [HOLD]), TIMEOUT),
    (lambda: stream(b": ", HOLD), TIMEOUT),
    (lambda: stream({"choices": [{"delta": {"content": "a"}}]}, HOLD), TIMEOUT),
    (lambda: stream(b"data: {\n\n"), BROKEN),
    (lambda: stream(b"data: \xff\n\n"), BROKEN),
    (lambda: stream({"choices": [{"delta": {"content": 7}}]}), BROKEN),
    (lambda: stream({"choices": [{"delta": {"content": "cut"}}]}, end=b""), BROKEN),
    (lambda: stream({"error": {"message": "boom", "code": 500}}), UNAVAILABLE),
    (lambda: stream(b"data: " + b"x" * (2 << 20)), BROKEN),
    (lambda: stream(*[b": " + b"x" * (1 << 16) + b"\n"] * 1025), BROKEN),
    (lambda: Reply(200, [b'{"choices": []}']), BROKEN),
    (lambda: Reply(200, [b"\x1f\x8b"], headers={"content-encoding": "gzip"}), BROKEN),
    (lambda: Reply(200, []), BROKEN),
]


@pytest.mark.parametrize(("fault", "code"), CHAT_FAULTS)
async def test_whatever_an_upstream_does_wrong_ends_the_job_with_a_code(
    autojump_clock: MockClock, fault: Callable[[], Reply], code: str
) -> None:
    fake = FakeOpenAi()

    async with serving(fake) as served:
        fake.faults["completions"] = fault
        failed = await failure(served, generating(QUESTION))
        del fake.faults["completions"]
        await until(lambda: bool(served.upstream.models))
        again = await served.run(generating(QUESTION))

    assert failed.code == code
    assert len(failed.message) < 500
    assert [row["text"] for row in generate.rows(again.output)] == ["ONE TWO THREE "]
    assert fake.open == 0


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (lambda: error(400, "empty text"), REFUSED),
        (lambda: error(500), UNAVAILABLE),
        (lambda: Reply(200, [b"{"]), BROKEN),
        (lambda: Reply(200, [b'{"data": []}']), BROKEN),
        (lambda: Reply(200, [b'{"data": [{"index": 0, "embedding": [1, 2]}]}']), BROKEN),
        (lambda: Reply(200, [b"x" * (1 << 20)] * 17), BROKEN),
        (lambda: Reply(200, [HOLD]), TIMEOUT),
        (lambda: Reply(200, [b"{", HOLD]), TIMEOUT),
    ],
)
async def test_vectors_that_are_none_end_the_job_with_a_code(
    autojump_clock: MockClock, fault: Callable[[], Reply], code: str
) -> None:
    fake = FakeOpenAi()

    async with serving(fake) as served:
        fake.faults["embeddings"] = fault
        failed = await failure(served, embedding("a text"))

    assert failed.code == code
    assert MAX_UPSTREAM_WHOLE_BYTES < 17 << 20
    assert MAX_UPSTREAM_STREAM_BYTES < 1025 << 16


async def test_the_first_byte_and_each_further_one_have_their_own_time(
    autojump_clock: MockClock,
) -> None:
    fake = FakeOpenAi()

    async with serving(fake) as served:
        fake.faults["completions"] = lambda: Reply(200, [HOLD])
        first = await failure(served, generating(QUESTION))
        fake.faults["completions"] = lambda: stream(b": \n", HOLD)
        await until(lambda: bool(served.upstream.models))
        later = await failure(served, generating(QUESTION))

    assert "no first byte within 20 s" in first.message
    assert "nothing more within 5 s" in later.message


async def test_one_failing_prompt_ends_the_whole_job_and_gives_its_requests_up(
    autojump_clock: MockClock,
) -> None:
    fake = FakeOpenAi(pause_after=1)

    async with serving(fake) as served:
        fake.faults["completions"] = _third_fails()
        failed = await failure(served, generating(*["one two"] * 6))

    assert failed.code == UNAVAILABLE
    assert fake.open == 0


def _third_fails() -> Callable[[], Reply]:
    asked = 0

    def reply() -> Reply:
        nonlocal asked
        asked += 1
        return error(500) if asked == 3 else stream({"choices": []}, HOLD)

    return reply


async def test_an_answer_is_read_to_its_end_so_that_the_connection_can_be_used_again(
    autojump_clock: MockClock,
) -> None:
    fake = FakeOpenAi()
    done = b"data: [DONE]\n\n"

    async with serving(fake) as served:
        fake.faults["completions"] = lambda: stream(END, done, 0.1, end=b"\n")
        await served.run(generating(QUESTION))
        is_whole = not fake.given_up.is_set()
        fake.faults["completions"] = lambda: stream(END, done, HOLD)
        outcome = await served.run(generating(QUESTION))

    assert is_whole
    assert [row["text"] for row in generate.rows(outcome.output)] == ["a"]


async def test_a_cancelled_job_closes_its_request_at_once(autojump_clock: MockClock) -> None:
    fake, seen = FakeOpenAi(pause_after=1), Seen()

    async with serving(fake) as served, trio.open_nursery() as nursery:
        nursery.start_soon(served.run, generating(QUESTION), seen)
        await until(lambda: bool(seen.pieces))
        cancelled_at = trio.current_time()
        nursery.cancel_scope.cancel()

    assert fake.given_up.is_set()
    assert fake.open == 0
    assert trio.current_time() == cancelled_at
    assert [part.text for part in text_output.pieces(b"".join(seen.pieces))] == ["ONE "]


async def test_a_wrong_kind_or_precision_never_reaches_the_upstream(
    autojump_clock: MockClock,
) -> None:
    asked = generating(QUESTION)

    async with serving() as served:
        kind = await failure(served, RunRequest("vectors", "generate", "upstream", asked.input))
        precise = await failure(served, RunRequest("chatty", "generate", "int4", asked.input))
        before = len(served.fake.of("chat/completions"))

    assert (kind.code, precise.code, before) == ("kind-mismatch", "precision-unavailable", 0)


# Health


async def test_while_the_upstream_is_down_it_has_no_models_and_is_asked_ever_less(
    autojump_clock: MockClock,
) -> None:
    fake = FakeOpenAi()

    async with serving(fake) as served:
        fake.faults["models"] = lambda: error(503)
        await trio.sleep(UPSTREAM_POLL_S + 5)
        down, asked = served.upstream.status() or {}, len(fake.requests)
        await trio.sleep(3_600)
        asked_in_an_hour = len(fake.requests) - asked
        del fake.faults["models"]
        await trio.sleep(61)
        up = served.upstream.status() or {}

    assert (down["state"], down["models"]) == ("down", [])
    assert "503" in down["reason"]
    assert 55 < asked_in_an_hour < 70, "once a minute, after a few quick ones"
    assert (up["state"], up["reason"], len(up["models"])) == ("up", None, 2)
    assert served.changes == 3, "there, gone, there again"


async def test_a_job_that_finds_the_upstream_gone_has_it_looked_at_at_once(
    autojump_clock: MockClock,
) -> None:
    fake = FakeOpenAi()

    async with serving(fake) as served:
        await trio.sleep(2)
        fake.faults["models"] = fake.faults["completions"] = lambda: error(503)
        assert (await failure(served, generating(QUESTION))).code == UNAVAILABLE
        await trio.sleep(0.5)

        assert served.upstream.models == {}


async def test_a_model_that_is_missing_at_first_is_found_soon(autojump_clock: MockClock) -> None:
    fake = FakeOpenAi(models={})
    options = Options("http://up/v1", models=("chatty",))

    async with serving(fake, options) as served:
        fake.models["chatty"] = "acme"
        await trio.sleep(1.5)

        assert set(served.upstream.models) == {"chatty"}


async def test_an_upstream_that_hangs_or_lists_nonsense_is_down(autojump_clock: MockClock) -> None:
    for reply in (Reply(200, [HOLD]), Reply(200, [b"{"]), Reply(200, [b"x" * (1 << 20)] * 5)):
        fake = FakeOpenAi(faults={"models": lambda reply=reply: reply})
        async with serving(fake) as served:
            await trio.sleep(15)

            assert (served.upstream.status() or {})["state"] == "down"


async def test_a_token_is_shown_to_the_upstream_and_to_nobody_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeOpenAi(token="right")

    async with serving(fake, token="right") as served:
        await served.run(generating(QUESTION))
        told = str(served.upstream.status())
    async with serving(fake, token="wrong-one") as refused:
        state = refused.upstream.status() or {}

    assert "right" not in told
    assert state["state"] == "down"
    assert "401" in state["reason"]
    assert "wrong-one" not in caplog.text


async def test_what_an_upstream_calls_made_at_another_time_is_no_other_model(
    autojump_clock: MockClock,
) -> None:
    async with serving() as served:  # its list says a later time whenever it is asked
        before = served.upstream.models["chatty"]
        await trio.sleep(10 * UPSTREAM_POLL_S)

        assert served.upstream.models["chatty"].created > before.created
        assert served.changes == 1


# What to expect


async def test_a_job_waits_only_where_there_is_no_place_for_it(autojump_clock: MockClock) -> None:
    options = Options("http://up/v1", requests=2)
    fake = FakeOpenAi()
    asker = Asker("two", 1.0, {})

    async with serving(fake, options) as served, trio.open_nursery() as nursery:
        model = served.upstream.models["chatty"]
        assert served.upstream.estimate_s(model, 768, 100) is None
        fake.faults["completions"] = lambda: stream(4.0, END)
        await served.run(generating("a b c"))
        known = served.upstream.estimate_s(model, 256, len(generating("a b c").input))
        fake.pause_after = 1
        del fake.faults["completions"]
        nursery.start_soon(served.run, generating("a b c"))
        await wait_all_tasks_blocked()
        beside = served.upstream.backlog_s(asker)
        promised = served.upstream.backlog_s(Asker("two", 1.0, {"three": 1.0}))
        nursery.start_soon(served.run, generating("a b c"))
        await wait_all_tasks_blocked()
        behind = served.upstream.backlog_s(asker)
        nursery.cancel_scope.cancel()

    assert known == pytest.approx(4.0)
    assert beside == 0.0
    assert promised > 0.0
    assert 0.0 < behind <= 4.0


async def test_who_waits_for_a_place_takes_turns_with_others(autojump_clock: MockClock) -> None:
    fake = FakeOpenAi()
    options = Options("http://up/v1", requests=1)

    async with serving(fake, options) as served, trio.open_nursery() as nursery:
        fake.faults["completions"] = lambda: stream(1.0, END)
        nursery.start_soon(served.run, generating(*["many of them"] * 50))
        await wait_all_tasks_blocked()
        nursery.start_soon(served.run, generating("a single one", submitter="two"))

    asked = [body["prompt"] for body in fake.of("completions")]
    assert asked.index("a single one") == 1
    assert len(asked) == 51
