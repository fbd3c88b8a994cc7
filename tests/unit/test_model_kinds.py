"""Models of the kinds beside ``embed``: what makes them, what is refused, what a node offers."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from node.manifest import ModelError
from node.models import ModelStore
from node.offering import runnable
from node.runner.files import ModelFiles
from tests.support.models import model_folder
from tests.support.tiny_models import tiny_model


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "source")


def test_a_text_classifier_in_a_folder_names_its_labels(store: ModelStore, tmp_path: Path):
    folder = tiny_model(tmp_path / "tiny", "DistilBertForSequenceClassification")

    model = store.add_path(folder, name="tiny", kind="classify")

    assert (model.manifest.architecture, model.manifest.dimension) == ("distilbert", 3)
    assert sorted(model.manifest.files) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertModel"]},
        {"model_type": "roberta"},
        {"problem_type": "multi_label_classification"},
        {"id2label": {"0": "one"}},
        {"id2label": {"0": "one", "2": "two"}},
        {"id2label": {"0": "one", "1": "one"}},
        {"id2label": {str(place): str(place) for place in range(300)}},
        {"id2label": 7},
    ],
)
def test_a_model_that_does_not_choose_among_labels_is_no_classifier(
    store: ModelStore, tmp_path: Path, config: dict[str, object]
):
    folder = tiny_model(tmp_path / "odd", "BertForSequenceClassification", **config)

    with pytest.raises(ModelError) as caught:
        store.add_path(folder, name="odd", kind="classify")

    assert caught.value.code == "model-config"


def test_a_model_for_a_pipeline_is_taken_with_its_tokenizer(store: ModelStore, tmp_path: Path):
    folder = tiny_model(tmp_path / "tiny", "BertForMaskedLM")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")

    model = store.add_path(folder, name="tiny", kind="pipeline")

    assert model.manifest.architecture == "BertForMaskedLM"
    assert model.precisions == ("fp32",)
    assert "tokenizer_config.json" in model.manifest.files
    assert not (model.path / "modeling_tiny.py").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_makes_no_pipeline(store: ModelStore, tmp_path: Path, file: str):
    folder = tiny_model(tmp_path / "tiny", "BertForMaskedLM")
    told = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**told, "auto_map": {"AutoModel": "modeling.Tiny"}}))

    with pytest.raises(ModelError, match="code") as caught:
        store.add_path(folder, name="tiny", kind="pipeline")

    assert caught.value.code == "model-code"


@pytest.mark.parametrize(
    "architecture", ["WhisperForConditionalGeneration", "os.system", "BertModel", ""]
)
def test_an_architecture_that_is_for_no_listed_task_makes_no_pipeline(
    store: ModelStore, tmp_path: Path, architecture: str
):
    folder = tiny_model(tmp_path / "tiny", architecture)

    with pytest.raises(ModelError, match="no pipeline for") as caught:
        store.add_path(folder, name="tiny", kind="pipeline")

    assert caught.value.code == "model-config"


@pytest.mark.parametrize("kind", ["vad", "detect", "bench.noop"])
def test_some_kinds_have_packaged_models_only(store: ModelStore, folder: Path, kind: str):
    with pytest.raises(ModelError, match="not taken from a folder") as caught:
        store.add_path(folder, name="tiny", kind=kind)

    assert "covey models add" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["silero-vad", "magika"])
def test_every_packaged_model_is_what_the_catalogue_says(store: ModelStore, name: str):
    model = store.add(name)

    ModelFiles(model.path, model.manifest).check_all()
    assert model.precisions == ("fp32",)


def test_a_node_offers_only_what_it_has_everything_for(
    store: ModelStore,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    embedder = store.add_path(folder, name="embedder")
    tiny = tiny_model(tmp_path / "tiny", "BertForMaskedLM")
    masked = store.add_path(tiny, name="masked", kind="pipeline")
    newer = dataclasses.replace(masked, name="newer", kind="dream")
    assert runnable([embedder, masked]) == [embedder, masked]

    monkeypatch.setattr(
        "node.runner.kinds.find_spec",
        lambda name: None if name == "transformers" else find_spec(name),
    )

    assert runnable([embedder, masked, newer]) == [embedder]
    told = {record.__dict__["model"]: record.__dict__["reason"] for record in caplog.records}
    assert "pip install 'covey[transformers]'" in told["masked"]
    assert "does not know the kind dream" in told["newer"]
