"""A folder with a model's files, before it is installed: what a kind looks at to say which of them
make the model.

Only plain files are read, no link is followed, and weights are never opened here but to be hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.manifest import FileEntry, ModelError, check_file_name, is_pickle
from node.runner.files import CHUNK_BYTES, open_inside

MAX_CONFIG_BYTES: Final = 1 << 20  # config.json of the largest models is 10 kB


@dataclass(frozen=True, slots=True)
class Description:
    """What a kind says about the model in a folder; ``files`` are all that it needs."""

    architecture: str
    dimension: int
    max_tokens: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One folder. Its methods raise ``ModelError`` for what is not there or no plain file."""

    folder: Path

    def present(self, *names: str) -> tuple[str, ...]:
        """Return which of the names are there."""
        return tuple(name for name in names if os.path.lexists(self.folder / name))

    def read(self, name: str) -> bytes:
        """Return a small file, or the first ``MAX_CONFIG_BYTES`` of one that is not."""
        with open_source(self.folder, name) as descriptor:
            return os.read(descriptor, MAX_CONFIG_BYTES)

    def weights(self) -> tuple[str, ...]:
        """Return the names of the safetensors; there is at least one."""
        found = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if not found:
            pickled = any(is_pickle(path.name) for path in self.folder.iterdir())
            raise ModelError(
                f"{self.folder} has {'only pickled weights' if pickled else 'no weights'}",
                code="model-pickle" if pickled else "model-incomplete",
                hint="a model needs its weights as .safetensors",
            )
        return tuple(map(check_file_name, found))

    def digest(self, name: str) -> FileEntry:
        """Return size and digest of a file as it is now."""
        digest = hashlib.sha256()
        size = 0
        with open_source(self.folder, check_file_name(name)) as descriptor:
            while chunk := os.read(descriptor, CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        return FileEntry(digest.hexdigest(), size)


@contextmanager
def open_source(folder: Path, name: str) -> Generator[int]:
    """Open a file to be installed; raises ``ModelError``."""
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
