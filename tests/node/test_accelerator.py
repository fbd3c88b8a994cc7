"""What accelerators compute is what the CPU computes; run where torch finds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from node.devices import ComputeDevice
from node.hardware import capabilities, measure
from node.models import ModelStore
from node.run_request import RunRequest
from node.runner.backends.torch_llama import load_model
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings, Event, Finished, kind_named
from node.runner.measure import accelerators
from node.runners import RunnerPool
from peer.effects import system_effects
from protocols import dagcbor
from tests.support.llama import llama_folder
from tests.support.tiny_models import LABELS, tiny_model

FOUND: Sequence[Mapping[str, Any]] = accelerators()
TEXTS = ["cat sat here", "dog", "", "the cat ran there and there and there", "cat sat here"]
PROMPT = [5, 77, 200, 13, 13, 91, 250, 3, 44, 120, 7]

needs_accelerator = pytest.mark.skipif(not FOUND, reason="torch finds no accelerator here")


def test_runners_compute_on_the_accelerator_that_was_measured_unless_told_otherwise() -> None:
    device, told = ComputeDevice(), ComputeDevice("cpu")
    assert device.name == "cpu", "nothing is measured yet"

    for each in (device, told):
        each.found([{"backend": "cuda", "name": "one", "memory_bytes": 1}])

    assert (device.name, told.name) == ("cuda", "cpu")


@needs_accelerator
async def test_a_start_measures_the_accelerator_and_adverts_say_what_it_does() -> None:
    measured = await measure()

    first = capabilities(measured, FOUND[0]["backend"])["accelerators"][0]

    assert first["matmul_bf16_gflops"] > 0
    assert first["matmul_gflops"] > 0
    assert first["memory_gb_s"] > 0
    assert dagcbor.decode(dagcbor.encode(measured)) == measured


@needs_accelerator
def test_sequences_written_together_get_the_numbers_of_each_alone(store: ModelStore) -> None:
    model = store.get("llama")
    settings = EngineSettings("fp32", 1, 0, FOUND[0]["backend"])
    llama = load_model(ModelFiles(model.path, model.manifest), settings)[0]
    caches = [llama.open(64) for _ in range(3)]
    alone: list[NDArray[np.float32]] = []
    for length, cache in enumerate(caches, 1):
        assert cache is not None
        llama.read(cache, PROMPT[: 3 * length])
        alone.append(llama.write([cache], [31])[0])
        cache.length -= 1

    together = llama.write(caches, [31] * 3)

    np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    for name, kind, architecture in (
        ("embedder", "embed", "BertModel"),
        ("classifier", "classify", "BertForSequenceClassification"),
    ):
        tiny_model(tmp_path / name, architecture)
        store.add_path(tmp_path / name, name=name, kind=kind)
    store.add_path(llama_folder(tmp_path / "llama"), name="llama", kind="generate")
    return store


def computed(
    store: ModelStore, name: str, kind: str, device: str, **told: object
) -> NDArray[np.float32]:
    codec, model = kind_named(kind), store.get(name)
    settings = EngineSettings("fp32", 1, 768, device)
    engine = codec.load(ModelFiles(model.path, model.manifest), settings)
    engine.start(1, codec.encode_input(TEXTS, told))
    assert engine.execution["device"] == device
    while True:
        for event in engine.step():
            if isinstance(event, Finished):
                return codec.array(event.output)


@needs_accelerator
@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("embedder", "embed", {}),
        ("classifier", "classify", {}),
        ("embedder", "classify", {"labels": tuple(LABELS)}),
    ],
)
def test_vectors_and_scores_are_those_of_the_cpu(
    store: ModelStore, name: str, kind: str, told: dict[str, object]
) -> None:
    device = FOUND[0]["backend"]

    there, here = (computed(store, name, kind, each, **told) for each in (device, "cpu"))

    np.testing.assert_allclose(there, here, atol=1e-4)


def logits_of(store: ModelStore, precision: str, device: str) -> NDArray[np.float32]:
    model = store.get("llama")
    files = ModelFiles(model.path, model.manifest)
    llama = load_model(files, EngineSettings(precision, 1, 0, device))[0]
    assert llama.execution["device"] == device
    cache = llama.open(64)
    assert cache is not None
    return np.stack([llama.read(cache, PROMPT), llama.write([cache], [31])[0]])


@needs_accelerator
@pytest.mark.parametrize(
    ("precision", "off"), [("fp32", 1e-3), ("bf16", 0.02), ("int8", 0.02), ("int4", 0.2)]
)
def test_language_models_are_close_to_the_cpus_fp32(
    store: ModelStore, precision: str, off: float
) -> None:
    there = logits_of(store, precision, FOUND[0]["backend"])
    here = logits_of(store, "fp32", "cpu")

    assert np.abs(there - here).max() / np.abs(here).max() < off


@needs_accelerator
@pytest.mark.parametrize(
    ("kind", "told", "figures"),
    [
        ("bench.compute", {"size": 64}, {"matmul_fp32_accelerator_gflops"}),
        (
            "bench.memory",
            {"copy_mb": 1},
            {"memory_copy_accelerator_gb_s", "memory_read_accelerator_gb_s"},
        ),
    ],
)
def test_a_benchmark_measures_the_accelerator_and_names_it(
    store: ModelStore, kind: str, told: dict[str, object], figures: set[str]
) -> None:
    codec, model = kind_named(kind), store.get("machine")
    settings = EngineSettings("none", 1, 0, FOUND[0]["backend"])
    engine = codec.load(ModelFiles(model.path, model.manifest), settings)
    engine.start(1, codec.encode_input([], {"seconds": 0.05, **told}))
    events: list[Event] = []
    while engine.is_busy:
        events += engine.step()
    finished = events[-1]

    assert isinstance(finished, Finished)
    assert figures <= {row["name"] for row in codec.rows(finished.output)}
    assert finished.execution["accelerator"] == FOUND[0]["name"]


@needs_accelerator
async def test_a_confined_runner_computes_on_the_accelerator(store: ModelStore) -> None:
    device = ComputeDevice(FOUND[0]["backend"])
    pool = RunnerPool(store, system_effects(), device=device)
    content = kind_named("embed").encode_input(TEXTS)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            outcome = await pool.run(RunRequest("embedder", "embed", "fp32", content, len(TEXTS)))
            await pool.aclose()

    assert outcome.execution["device"] == device.name
    assert outcome.execution["sandbox"] == "basic"
    np.testing.assert_allclose(
        kind_named("embed").array(outcome.output),
        computed(store, "embedder", "embed", "cpu"),
        atol=1e-4,
    )
