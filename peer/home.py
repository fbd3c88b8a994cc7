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

from peer.durable import NotWrittenError, make_folder_durably, write_durably
from protocols.errors import CoveyError

HOME_VERSION: Final = 1  # another layout of these files: older versions must leave them alone
VERSION_FILE: Final = "home.version"
LOCK_WAIT_S: Final = 10.0  # a restarting daemon's predecessor may still be flushing
LOCK_RETRY_S: Final = 0.1


class HomeError(CoveyError):
    """The state directory cannot be used as it is."""

    default_code = "home-unusable"


class HomeInUseError(HomeError):
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
    def dropped(self) -> Path:
        """How many reports a full disk has kept from the journal."""
        return self.path / "dropped"

    @property
    def index(self) -> Path:
        """The DuckDB file, rebuilt from the journal whenever it is missing or damaged."""
        return self.path / "index.duckdb"

    @property
    def control_socket(self) -> Path:
        """The unix socket on which the daemon serves its control API."""
        return self.path / "control.sock"

    @property
    def api_token(self) -> Path:
        """The token of the HTTP API."""
        return self.path / "api.token"

    @property
    def models(self) -> Path:
        """Installed models, a folder each."""
        return self.path / "models"

    @property
    def jobs(self) -> Path:
        """Jobs that the node has promised to do, a folder each."""
        return self.path / "jobs"

    @property
    def vouched(self) -> Path:
        """The last checkpoint that each aggregator told this node of, a file each."""
        return self.path / "checkpoints"

    @property
    def issues(self) -> Path:
        """Issue files of the folder tracker."""
        return self.path / "issues"

    def create(self) -> None:
        """Make the directory, readable by its owner alone, and mark it as of our version.

        Raises ``HomeError`` when it cannot be written to, or a newer version has written there.
        """
        if self.check_version():
            return
        try:
            make_folder_durably(self.path)
        except NotWrittenError as error:
            raise self._unusable(error.details["reason"]) from error
        write_durably(self.path / VERSION_FILE, b"%d\n" % HOME_VERSION)

    def check_version(self) -> bool:
        """Tell whether the directory bears a version; raise ``HomeError`` if it is not ours."""
        try:
            text = (self.path / VERSION_FILE).read_bytes().strip()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unusable(error.strerror) from error
        if not text.isdigit():
            raise HomeError(
                f"{self.path / VERSION_FILE} does not hold a version",
                code="home-damaged",
                hint=f"if no newer covey ran there, write {HOME_VERSION} into it",
            )
        if int(text) > HOME_VERSION:
            raise HomeError(
                f"{self.path} was written by a newer covey: it has version {int(text)}, "
                f"and this one knows {HOME_VERSION}",
                code="home-newer",
                hint="upgrade covey on this machine, or use another state directory",
            )
        return True

    def _unusable(self, reason: str | None) -> HomeError:
        return HomeError(
            f"the state directory {self.path} cannot be used: {reason}",
            hint="free space there, or point COVEY_HOME (the aggregator's: COVEY_AGGREGATOR_HOME)"
            " at a directory that you may write to",
        )

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Own this directory until the block ends; wait ``LOCK_WAIT_S`` for a predecessor.

        Raises ``HomeInUseError`` when another process keeps it. The lock dies with its process.
        """
        self.create()
        try:
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error.strerror) from error
        try:
            with trio.move_on_after(LOCK_WAIT_S) as waiting:
                while not _try_lock(handle):  # noqa: ASYNC110 - flock has no event to wait on
                    await trio.sleep(LOCK_RETRY_S)
            if waiting.cancelled_caught:
                raise HomeInUseError(
                    f"{self.path} is in use by another process",
                    hint="a daemon that starts, or another command: try again in a moment; or stop"
                    " the daemon that runs there; or use another state directory",
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
        except OSError as error:
            raise self._unusable(error.strerror) from error
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
