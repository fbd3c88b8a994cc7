"""Generation in runners as they are: real processes and the real weights of SmolLM2."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from node.fair_queue import Asker
from node.models import ModelStore
from node.run_request import RunRequest
from node.runner import text_output
from node.runner.kinds import generate
from node.runner_job import RunOutcome
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import JobFailed
from protocols.limits import MAX_GENERATE_INSIDE

MODEL = "smollm2"
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a long story about a sailor."}]
WITHIN_S = 180.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("home") / "models")
    store.add(MODEL)
    return store


@asynccontextmanager
async def serving(store: ModelStore) -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(store, system_effects())
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            await pool.aclose()


def request(*items: Any, precision: str = "int4", **parameters: Any) -> RunRequest:
    content = generate.encode_input(items, parameters)
    return RunRequest(
        MODEL, "generate", precision, content, generate.count_tokens(content), "submitter"
    )


def rows(outcome: RunOutcome) -> list[dict[str, Any]]:
    return list(generate.rows(outcome.output))


@dataclass
class Computed:
    """What one runner did: a question alone, a job alone and in company, a story that was given
    up, a prompt that is too long, and what jobs would have waited meanwhile.
    """

    pieces: list[bytes] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    outcomes: dict[str, RunOutcome] = field(default_factory=dict)
    refused: JobFailed | None = None
    was_cancelled: bool = False
    waits_s: list[float] = field(default_factory=list)
    pids: set[int | None] = field(default_factory=set)


@pytest.fixture(scope="module")
def computed(store: ModelStore) -> Computed:
    done = Computed()
    wanted = request(
        CAPITAL, "Once upon a time", max_tokens=16, temperature=0.9, top_p=0.95, seed=11
    )

    async def run(name: str, asked: RunRequest) -> None:
        done.outcomes[name] = await pool.run(asked)

    async def compute() -> None:
        nonlocal pool
        async with serving(store) as pool:
            done.outcomes["question"] = await pool.run(
                request(CAPITAL, max_tokens=48),
                lambda *step: done.progress.append(step),
                done.pieces.append,
            )
            done.pids |= {runner["pid"] for runner in pool.running()}
            await run("alone", wanted)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, "story", request(STORY, max_tokens=20, temperature=1.0))
                nursery.start_soon(run, "beside", wanted)
                nursery.start_soon(run, "words", request("A " * 150, max_tokens=10))
            await run("other", request(CAPITAL, max_tokens=16, temperature=0.9, seed=12))
            with trio.CancelScope() as scope:
                told = scope.cancel
                await pool.run(request(STORY, max_tokens=2_000), on_piece=lambda _piece: told())
            done.was_cancelled = scope.cancelled_caught
            try:
                await pool.run(request("word " * 9_000))
            except JobFailed as failed:
                done.refused = failed
            await fill()
            done.pids |= {runner["pid"] for runner in pool.running()}

    async def fill() -> None:
        """Give the runner as many stories as one submitter may have in it."""
        model = store.get(MODEL)
        asker, another = (Asker(name, 5.0, {}) for name in ("submitter", "another"))
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_GENERATE_INSIDE):
                done.waits_s.append(pool.backlog_s(model, "int4", asker))
                nursery.start_soon(pool.run, request(STORY, max_tokens=200))
                await trio.testing.wait_all_tasks_blocked()
            done.waits_s += [pool.backlog_s(model, "int4", who) for who in (another, asker)]
            nursery.cancel_scope.cancel()

    pool: RunnerPool
    trio.run(compute)
    return done


def test_a_question_is_answered_and_told_token_by_token(computed: Computed):
    outcome, told = computed.outcomes["question"], b"".join(computed.pieces)

    (answer,) = rows(outcome)
    assert "Paris" in answer["text"]
    assert (answer["finish_reason"], answer["tokens"]) == ("stop", 8)
    assert outcome.output.startswith(told)
    tokens = [piece.tokens for piece in text_output.pieces(told)]
    assert tokens == [1] * len(tokens)
    assert 1 < len(tokens) < 8  # what is left at the end is told with it
    assert computed.progress[-1][0] == computed.progress[-1][1]
    assert outcome.execution["precision"] == "int4"
    assert outcome.execution["rows"] == "independent"


def test_the_same_seed_gives_the_same_bytes_in_any_company(computed: Computed):
    alone, beside, other = (computed.outcomes[name] for name in ("alone", "beside", "other"))

    assert beside.output == alone.output
    assert rows(other)[0]["text"] != rows(alone)[0]["text"]
    assert int(beside.execution["max_rows"]) > 2


def test_a_cancelled_or_refused_job_leaves_its_runner_to_the_next(computed: Computed):
    assert computed.was_cancelled
    assert computed.refused is not None
    assert computed.refused.code == "context-length"
    assert "8191" in str(computed.refused)
    assert len(computed.pids) == 1


def test_a_job_joins_others_under_way_as_long_as_there_are_places(computed: Computed):
    *before, of_another, own = computed.waits_s

    assert before == [0.0] * MAX_GENERATE_INSIDE
    assert of_another == 0.0
    assert own > 0


async def test_a_job_whose_runner_was_stopped_under_it_tells_no_token_twice(store: ModelStore):
    pieces: list[bytes] = []

    def freeze(piece: bytes) -> None:
        """After the first texts, another job is cancelled in a runner that no longer answers."""
        pieces.append(piece)
        pid = pool.running()[0]["pid"]
        if pid and len(pieces) == 2:
            os.kill(pid, signal.SIGSTOP)
            scope.cancel()

    async def run_another() -> None:
        nonlocal scope
        with scope:
            await pool.run(request(STORY, max_tokens=2_000))

    scope = trio.CancelScope()
    async with serving(store) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(run_another)
        outcome = await pool.run(request(STORY, max_tokens=60, seed=3), on_piece=freeze)

    assert scope.cancelled_caught
    assert outcome.output.startswith(b"".join(pieces))
    assert len(pieces) > 2, "the next runner went on where this one was stopped"
