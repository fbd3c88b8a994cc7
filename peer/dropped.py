"""How many error reports a full disk has kept from being recorded, counted on that very disk.

The count has its place from the start, and is overwritten there: that takes no room. It only ever
grows, so it can be told again after a crash, and whoever is told keeps the highest.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class Dropped:
    """The count in a file at ``path``; without one it lasts as long as this process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.total, self._told = _read(path) if path is not None else (0, 0)

    @property
    def untold(self) -> int:
        """How many of them no record tells of yet."""
        return self.total - self._told

    def add(self, count: int) -> None:
        """Count some more, durably where the disk lets us; never raises."""
        self.total += count
        self._save()

    def told(self, total: int) -> None:
        """Take in that a record on the disk tells of the first ``total``; never raises."""
        self._told = total
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            _write(self._path, self.total, self._told)
        except OSError as error:
            log.warning("dropped reports not counted on disk", extra={"reason": error.strerror})


def reserved(path: Path) -> Dropped:
    """Return the count at ``path``, whose room is taken from now on if the disk has any."""
    dropped = Dropped(path)
    dropped.add(0)
    return dropped


def _read(path: Path) -> tuple[int, int]:
    try:
        words = path.read_bytes().split()
        total, told = int(words[0]), int(words[1])
    except FileNotFoundError:
        return 0, 0
    except (OSError, ValueError, IndexError) as error:
        log.warning("count of dropped reports lost", extra={"reason": repr(error)})
        return 0, 0
    return total, min(told, total)


def _write(path: Path, total: int, told: int) -> None:
    """Overwrite both numbers in one write of less than a sector."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(handle, b"%020d %020d\n" % (total, told), 0)
        os.fsync(handle)
    finally:
        os.close(handle)
