"""A model's files, read once and checked by digest, and watched for change afterwards.

The bytes that were hashed are the bytes that are used: each file is read into memory whole, never
mapped, so that what happens to the disk later cannot reach weights that are already loaded. Links
are not followed, in the last part of a path or before it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    ModelDamagedError,
    parse_manifest,
    reinstall_hint,
)

CHUNK_BYTES: Final = 1 << 20

Stamp = tuple[int, int, int, int]


def read_manifest(folder: Path, name: str) -> Manifest:
    """Return the manifest of the model in ``folder``; raises ``ModelDamagedError`` when it is
    missing or invalid.
    """
    try:
        with os.fdopen(open_inside(folder, MANIFEST_NAME), "rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelDamagedError(
            f"the manifest of model {name} cannot be read: {error.strerror}",
            hint=reinstall_hint(name),
        ) from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelDamagedError(
            f"the manifest of model {name} is larger than {MAX_MANIFEST_BYTES} bytes"
        )
    return parse_manifest(text, name)


def open_inside(folder: Path, name: str) -> int:
    """Open the regular file ``name`` below ``folder`` for reading, following no link on the way;
    raises ``OSError``.
    """
    *parents, last = name.split("/")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            inner = os.open(
                parent,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=descriptor,
            )
            os.close(descriptor)
            descriptor = inner
        # without O_NONBLOCK, opening a named pipe would wait for its writer
        opened = os.open(
            last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor
        )
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(0, "not a regular file")
    return opened


@dataclass(slots=True)
class ModelFiles:
    """The files of one model, as its manifest names them."""

    folder: Path
    manifest: Manifest
    _stamps: dict[str, Stamp] = field(default_factory=dict[str, Stamp])

    def read(self, name: str) -> bytes:
        """Return the bytes of one file after checking them; raises ``ModelDamagedError``."""
        content, stamp = self._read(name, self.manifest.files[name])
        self._stamps[name] = stamp
        return content

    def read_if_there(self, name: str) -> bytes | None:
        """Like ``read``, but None when the model has no such file."""
        return self.read(name) if name in self.manifest.files else None

    def weights(self) -> list[str]:
        """Return the names of the model's weight files."""
        return [name for name in self.manifest.files if name.endswith(".safetensors")]

    def check_all(self) -> None:
        """Check every file that was not read and checked already; raises ``ModelDamagedError``."""
        for name in self.manifest.files.keys() - self._stamps.keys():
            self.read(name)

    def check_changed(self) -> None:
        """Check again every file whose size, times or inode changed since it was last found good.

        Raises ``ModelDamagedError``, and does so again at each call until the file is what the
        manifest says.
        """
        for name, stamp in self._stamps.items():
            if self._stamp_now(name) != stamp:
                self.read(name)

    def _stamp_now(self, name: str) -> Stamp | None:
        try:
            return _stamp(os.lstat(self.folder / name))
        except OSError:
            return None

    def _read(self, name: str, entry: FileEntry) -> tuple[bytes, Stamp]:
        try:
            with os.fdopen(open_inside(self.folder, name), "rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                # one byte more than expected is enough to tell that the file is too long
                content = file.read(entry.size + 1)
        except OSError as error:
            raise self._damaged(name, f"cannot be read: {error.strerror}") from error
        if len(content) != entry.size:
            raise self._damaged(name, f"does not have the {entry.size} bytes of its manifest")
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise self._damaged(name, "does not have the digest of its manifest")
        return content, stamp

    def _damaged(self, file_name: str, what: str) -> ModelDamagedError:
        name = self.manifest.name
        return ModelDamagedError(
            f"file {file_name} of model {name} {what}",
            model=name,
            file=file_name,
            hint=reinstall_hint(name),
        )


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
