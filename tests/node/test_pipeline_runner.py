"""The kind ``pipeline`` in a runner as it is: a real process, a model of random weights."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.models import ModelStore
from node.run_request import RunRequest
from node.runner.kinds import pipeline
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols.errors import JobFailed
from tests.support.tiny_models import tiny_model

WITHIN_S = 120.0


@asynccontextmanager
async def serving(store: ModelStore) -> AsyncGenerator[RunnerPool]:
    pool = RunnerPool(store, system_effects())
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            await pool.aclose()


def request(texts: list[str], **told: Any) -> RunRequest:
    content = pipeline.encode_input(texts, told)
    return RunRequest("tiny", "pipeline", "fp32", content, len(texts))


async def test_a_pipeline_runs_on_checked_local_files(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    folder = tiny_model(tmp_path / "tiny", "BertForMaskedLM")
    model = store.add_path(folder, name="tiny", kind="pipeline")
    texts = ["cat [MASK] here", "[MASK]"] * 40

    async with serving(store) as pool:
        outcome = await pool.run(request(texts, top_k=3))
        with pytest.raises(JobFailed, match="item 0 has no") as unmasked:
            await pool.run(request(["cat"]))
        (model.path / "config.json").write_text("{}")
        with pytest.raises(JobFailed) as damaged:
            await pool.run(request(texts))

    told = list(pipeline.rows(outcome.output))
    assert [row["index"] for row in told] == list(range(80))
    assert all(len(row["result"]) == 3 for row in told)
    assert told[0]["result"][0]["score"] == pytest.approx(told[2]["result"][0]["score"], abs=1e-5)
    assert str(outcome.execution["engine"]).startswith("transformers ")
    assert unmasked.value.code == "bad-input"
    assert damaged.value.code == "model-damaged"
