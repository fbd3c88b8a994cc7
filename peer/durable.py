"""Small files that survive a power cut: written whole or not at all, and on disk when the call
returns.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from protocols.errors import CoveyError


class NotWrittenError(CoveyError):
    """A small file could not be written; the old one is still there."""

    default_code = "not-written"


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, mode 0600; a crash at any moment leaves the old or the new
    file. Raises ``NotWrittenError``, after which the old one is still there.
    """
    try:
        _written_beside(path, content).replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Yield a file to be filled, which takes the place of ``path`` when the block ends well and
    leaves nothing behind when it does not. Raises ``NotWrittenError``.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def create_durably(path: Path, content: bytes) -> None:
    """Create ``path`` with ``content``, mode 0600, whole or not at all; raise ``FileExistsError``
    rather than replace anything.
    """
    fresh = _written_beside(path, content)
    try:
        path.hardlink_to(fresh)  # unlike a rename, a link never replaces
    finally:
        fresh.unlink()
    _sync_directory(path.parent)


def make_folder_durably(path: Path) -> None:
    """Make the folder ``path``, mode 0700, and those above it that are not there. Raises
    ``NotWrittenError``.
    """
    try:
        _make_folder(path)
    except OSError as error:
        raise _not_written(path, error) from error


def _make_folder(path: Path) -> None:
    if not path.parent.is_dir():
        _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(path.parent)  # each new one's: a power cut takes whole trees away


def remove_durably(path: Path) -> None:
    """Remove ``path`` if it is there."""
    path.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _not_written(path: Path, error: OSError) -> NotWrittenError:
    return NotWrittenError(
        f"{path} cannot be written: {error.strerror}",
        hint="free space on that disk, or allow writing there"
        if path.parent.is_dir()
        else f"make {path.parent} first",
        reason=error.strerror,
    )


def _written_beside(path: Path, content: bytes) -> Path:
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(fresh, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # a leftover of a crash keeps the mode it had
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return fresh


def _sync_directory(directory: Path) -> None:
    """Make a new name in ``directory`` durable; the file's own fsync does not."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
