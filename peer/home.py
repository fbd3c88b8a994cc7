"""The state directory of one daemon: where each file lies, and the lock that lets one process own
it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from protocols.errors import CoveyError

LOCK_WAIT_S: Final = 10.0  # a restarting daemon's predecessor may still be flushing
LOCK_RETRY_S: Final = 0.1


class HomeInUseError(CoveyError):
    """Another process holds this state directory."""

    default_code = "home-in-use"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one state directory. Nothing is created before ``create``."""

    path: Path
    config_name: str

    @classmethod
    def of_node(cls, environ: Mapping[str, str]) -> Home:
        """The node's home: ``COVEY_HOME`` or the platform's data directory."""
        return cls(_directory(environ, "COVEY_HOME", "covey"), "covey.toml")

    @classmethod
    def of_aggregator(cls, environ: Mapping[str, str]) -> Home:
        """The aggregator's home: ``COVEY_AGGREGATOR_HOME`` or the platform's data directory."""
        path = _directory(environ, "COVEY_AGGREGATOR_HOME", "covey-aggregator")
        return cls(path, "aggregator.toml")

    @property
    def config(self) -> Path:
        """The configuration file, which need not exist."""
        return self.path / self.config_name

    @property
    def journal(self) -> Path:
        """The append-only truth."""
        return self.path / "journal"

    @property
    def index(self) -> Path:
        """The DuckDB file, rebuilt from the journal whenever it is missing or damaged."""
        return self.path / "index.duckdb"

    @property
    def control_socket(self) -> Path:
        """The unix socket on which the daemon serves its control API."""
        return self.path / "control.sock"

    @property
    def models(self) -> Path:
        """Installed models, a folder each."""
        return self.path / "models"

    @property
    def issues(self) -> Path:
        """Issue files of the folder tracker."""
        return self.path / "issues"

    def create(self) -> None:
        """Make the directory, readable by its owner alone."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CoveyError(
                f"cannot make the state directory {self.path}: {error.strerror}",
                code="home-unusable",
                hint="point COVEY_HOME (or COVEY_AGGREGATOR_HOME) at a directory you may write to",
            ) from error

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Own this directory until the block ends; wait ``LOCK_WAIT_S`` for a predecessor.

        Raises ``HomeInUseError`` when another process keeps it. The lock dies with its process.
        """
        self.create()
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with trio.move_on_after(LOCK_WAIT_S) as waiting:
                while not _try_lock(handle):  # noqa: ASYNC110 - flock has no event to wait on
                    await trio.sleep(LOCK_RETRY_S)
            if waiting.cancelled_caught:
                raise HomeInUseError(
                    f"{self.path} is in use by another process",
                    hint="stop the daemon that runs there, or use another state directory",
                )
            yield
        finally:
            os.close(handle)

    def is_locked(self) -> bool:
        """Tell whether some process owns this directory now."""
        try:
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(handle)
        finally:
            os.close(handle)


def _directory(environ: Mapping[str, str], variable: str, name: str) -> Path:
    import platformdirs  # kept out of --help

    return Path(environ.get(variable) or platformdirs.user_data_dir(name)).expanduser().absolute()


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
