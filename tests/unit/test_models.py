"""Installed models: what is taken, what is refused, and what a damaged one does to the others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from node import catalogue
from node.devices import ComputeDevice
from node.manifest import Manifest, ModelDamagedError, ModelError, ModelMissingError, parse_manifest
from node.models import UNCHANGED_S, ModelStore, precisions_of
from node.runner.backends.bert import BertConfig, Pooling, max_tokens_of, pooling_of
from node.runner.files import ModelFiles
from tests.support.models import CONFIG, flip_byte, model_folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "source")


def code_of(error: pytest.ExceptionInfo[ModelError]) -> str:
    return error.value.code


def test_a_packaged_model_is_copied_and_has_one_cid_everywhere(store: ModelStore):
    model = store.add("all-minilm-l6-v2")

    assert str(model.cid) == "bafyreibdfa4zrhctdy7f2qgqyixthxve3dfuj2dah4c3x3j53rzhmbpziq"
    assert model.manifest.dimension == 384
    assert model.precisions[0] == "fp32"
    assert store.list() == [model]
    ModelFiles(model.path, model.manifest).check_all()


def test_a_packaged_model_whose_package_is_missing_tells_what_to_install(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
):
    packaged = catalogue.CATALOGUE["all-minilm-l6-v2"]
    missing = dataclasses.replace(packaged, module="gt_no_such_package")
    monkeypatch.setitem(catalogue.CATALOGUE, "all-minilm-l6-v2", missing)

    with pytest.raises(ModelError) as caught:
        store.add("all-minilm-l6-v2")

    assert code_of(caught) == "package-missing"
    assert caught.value.hint == "pip install 'covey[worker]'"


def test_a_package_that_brings_other_bytes_is_refused_and_leaves_nothing(
    store: ModelStore, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    packaged = catalogue.CATALOGUE["all-minilm-l6-v2"]
    monkeypatch.setattr("node.models.locate", lambda _packaged: folder)

    with pytest.raises(ModelError) as caught:
        store.add(packaged.manifest.name)

    assert code_of(caught) == "model-digest"
    assert store.list() == []
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_model_outside_the_catalogue_is_told_how_to_add(store: ModelStore):
    with pytest.raises(ModelError, match="not in the catalogue") as caught:
        store.add("gpt-9")

    assert "--path" in str(caught.value.hint)


def test_a_local_folder_becomes_a_model(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")

    assert (model.name, model.kind, model.manifest.architecture) == ("tiny", "embed", "bert")
    assert (model.manifest.dimension, model.manifest.max_tokens) == (8, 48)
    assert model.manifest.source == "local"
    assert sorted(model.manifest.files) == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
    ]
    assert store.get("tiny") == model


def test_adding_a_model_again_repairs_it_and_changes_nothing_else(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")
    flip_byte(model.path / "model.safetensors", 3)

    again = store.add_path(folder, name="tiny")

    assert again == model
    assert (model.path / "model.safetensors").read_bytes() == b"weights"


def test_another_model_does_not_take_a_name_that_is_in_use(
    store: ModelStore, folder: Path, tmp_path: Path
):
    store.add_path(folder, name="tiny")
    other = model_folder(tmp_path / "other", weights=b"others")

    with pytest.raises(ModelError) as caught:
        store.add_path(other, name="tiny")

    assert code_of(caught) == "model-exists"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "A", "a b", "-x", "a\n", "a" * 97])
def test_a_name_that_could_leave_the_folder_is_refused(store: ModelStore, folder: Path, name: str):
    for call in (store.get, store.remove, lambda n: store.add_path(folder, name=n)):
        with pytest.raises(ModelError) as caught:
            call(name)
        assert code_of(caught) == "model-name"


def test_pickled_weights_are_refused(store: ModelStore, folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelError) as caught:
        store.add_path(folder, name="tiny")

    assert code_of(caught) == "model-pickle"
    assert "safetensors" in str(caught.value.hint)


def test_a_pickle_beside_the_weights_is_not_copied(store: ModelStore, folder: Path):
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")

    model = store.add_path(folder, name="tiny")

    assert not (model.path / "training_args.bin").exists()


@pytest.mark.parametrize("linked", ["config.json", "1_Pooling"])
def test_links_in_a_folder_are_not_followed(
    store: ModelStore, folder: Path, tmp_path: Path, linked: str
):
    (folder / linked).rename(tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ModelError, match="plain file") as caught:
        store.add_path(folder, name="tiny")

    assert code_of(caught) == "model-incomplete"


def test_a_link_put_into_an_installed_model_is_damage(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")
    (model.path / "tokenizer.json").unlink()
    (model.path / "tokenizer.json").symlink_to(folder / "tokenizer.json")

    with pytest.raises(ModelDamagedError, match=r"tokenizer\.json"):
        ModelFiles(model.path, model.manifest).check_all()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"hidden_size": -8},
        {"hidden_size": 9},
        {"num_hidden_layers": 10**9},
        {"vocab_size": "many"},
        {"hidden_act": "mish"},
        {"layer_norm_eps": float("nan")},
    ],
)
def test_a_configuration_that_is_no_bert_is_refused(
    store: ModelStore, tmp_path: Path, config: dict[str, object]
):
    folder = model_folder(tmp_path / "odd", **config)

    with pytest.raises(ModelError) as caught:
        store.add_path(folder, name="tiny")

    assert code_of(caught) == "model-config"


def test_a_missing_tokenizer_is_named(store: ModelStore, folder: Path):
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        store.add_path(folder, name="tiny")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace(b'"version": 1', b'"version": 2'),
        lambda text: text.replace(b"config.json", b"../secret", 1),
        lambda text: text.replace(b"model.safetensors", b"model.pkl"),
        lambda text: text.replace(b'"name": "tiny"', b'"name": "other"'),
        lambda text: text.replace(b'"kind"', b'"kinds"'),
        lambda text: b"\xff" + text,
        lambda text: text + b" " * 70_000,
    ],
)
def test_a_damaged_manifest_is_an_error_of_that_model_only(store: ModelStore, folder: Path, damage):
    good = store.add_path(folder, name="good")
    manifest = store.add_path(folder, name="tiny").path / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))

    models, faults = store.scan()

    assert models == [good]
    assert [type(fault) for fault in faults] == [ModelDamagedError]
    with pytest.raises(ModelDamagedError):
        store.get("tiny")


def test_a_manifest_is_looked_at_again_after_a_moment_or_when_the_device_is_found(
    tmp_path: Path, folder: Path
):
    now = 100.0
    device = ComputeDevice()
    store = ModelStore(tmp_path / "models", device, lambda: now)
    model = store.add_path(folder, name="tiny")
    assert store.get("tiny") == model
    (model.path / "manifest.json").write_bytes(b"")

    assert store.get("tiny") == model
    assert store.scan()[0] == []
    now += UNCHANGED_S
    with pytest.raises(ModelDamagedError):
        store.get("tiny")

    store.remove("tiny")
    assert store.add_path(folder, name="tiny") == store.get("tiny") == model
    device.found([{"backend": "cuda"}])
    assert "bf16" in store.get("tiny").precisions


def test_a_folder_without_manifest_is_damaged_and_an_absent_one_missing(
    store: ModelStore, tmp_path: Path
):
    (tmp_path / "models" / "empty").mkdir(parents=True)

    with pytest.raises(ModelDamagedError):
        store.get("empty")
    with pytest.raises(ModelMissingError):
        store.get("absent")


def test_a_removed_model_is_gone_and_a_damaged_one_can_be_removed(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")
    (model.path / "manifest.json").write_bytes(b"")

    store.remove("tiny")

    assert not model.path.exists()
    with pytest.raises(ModelMissingError):
        store.remove("tiny")


def test_what_a_killed_installation_left_is_cleared_away(
    store: ModelStore, folder: Path, tmp_path: Path
):
    leftover = tmp_path / "models" / ".incoming-00"
    leftover.mkdir(parents=True)

    store.add_path(folder, name="tiny")

    assert not leftover.exists()
    assert [model.name for model in store.list()] == ["tiny"]


def test_changed_files_are_noticed_until_they_are_whole_again(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")
    files = ModelFiles(model.path, model.manifest)
    files.check_all()
    files.check_changed()

    flip_byte(model.path / "model.safetensors", 0)

    for _ in range(2):
        with pytest.raises(ModelDamagedError, match="digest"):
            files.check_changed()
    flip_byte(model.path / "model.safetensors", 0)
    files.check_changed()
    (model.path / "config.json").unlink()
    with pytest.raises(ModelDamagedError, match="cannot be read"):
        files.check_changed()


def test_a_file_that_grew_is_damage(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")
    with (model.path / "model.safetensors").open("ab") as file:
        file.write(b"more")

    with pytest.raises(ModelDamagedError, match="7 bytes"):
        ModelFiles(model.path, model.manifest).check_all()


def test_the_manifest_on_disk_is_the_manifest(store: ModelStore, folder: Path):
    model = store.add_path(folder, name="tiny")

    text = (model.path / "manifest.json").read_bytes()

    assert parse_manifest(text, "tiny") == model.manifest
    assert next(iter(json.loads(text))) == "version"


def test_bf16_is_offered_where_the_processor_multiplies_in_it(store: ModelStore, folder: Path):
    manifest: Manifest = store.add_path(folder, name="tiny").manifest

    assert precisions_of(manifest, frozenset({"avx2"})) == ("fp32",)
    assert precisions_of(manifest, frozenset({"avx512_bf16"})) == ("fp32", "bf16")


def test_pooling_is_what_the_model_says():
    stages = json.dumps([{"type": "a.Transformer"}, {"type": "a.Pooling"}]).encode()

    assert pooling_of(None, None) == Pooling("mean", is_normalized=True)
    assert pooling_of(stages, b'{"pooling_mode_cls_token": true}') == Pooling(
        "cls", is_normalized=False
    )
    with pytest.raises(ModelError):
        pooling_of(stages, b'{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError):
        pooling_of(json.dumps([{"type": "a.Transformer"}, {"type": "a.Dense"}]).encode(), None)


def test_no_more_tokens_count_than_there_are_positions():
    config = BertConfig.parse(json.dumps(CONFIG).encode())

    assert max_tokens_of(config, None) == 64
    assert max_tokens_of(config, b'{"max_seq_length": 9999}') == 64
    assert max_tokens_of(config, b'{"max_seq_length": null}') == 64


def test_a_model_of_ones_own_declares_its_tolerance(store: ModelStore, folder: Path):
    plain = store.add_path(folder, name="tiny")
    declaring = store.add_path(folder, name="other", tolerances={"fp32": 1e-4})

    assert plain.manifest.tolerances == {}
    assert b"tolerances" not in plain.manifest.to_json()
    assert store.get("other").manifest.tolerances == {"fp32": 1e-4}
    same = msgspec.structs.replace(declaring.manifest, name="tiny")
    assert same.cid != plain.cid, "what outputs may be is part of what a model is"
    assert msgspec.structs.replace(same, tolerances={}).cid == plain.cid


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_tolerance_that_can_not_be_is_refused(store: ModelStore, folder: Path, tolerance: float):
    with pytest.raises(ModelError) as caught:
        store.add_path(folder, name="tiny", tolerances={"fp32": tolerance})

    assert code_of(caught) == "model-tolerance"


@pytest.mark.parametrize("license_name", ["", "x" * 257])
def test_a_licence_that_can_not_be_is_refused_as_one(
    store: ModelStore, folder: Path, license_name: str
):
    with pytest.raises(ModelError) as caught:
        store.add_path(folder, name="tiny", license_name=license_name)

    assert code_of(caught) == "model-license"
    assert "tolerance" not in str(caught.value)


def test_what_an_accelerator_computes_in_does_not_depend_on_the_processor(
    tmp_path: Path, folder: Path
):
    device = ComputeDevice()
    store = ModelStore(tmp_path / "models", device)
    manifest = store.add_path(folder, name="tiny").manifest
    noop = store.add("noop").manifest

    device.found([{"backend": "cuda"}])

    assert "bf16" in store.get("tiny").precisions
    assert precisions_of(manifest, frozenset({"avx2"}), "cuda") == ("fp32", "bf16")
    assert precisions_of(noop, frozenset({"avx2"}), "cuda") == ("none",)
