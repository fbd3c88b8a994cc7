"""A disk of a test machine that loses what was not synced when the power goes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.support.machines import CommandFailedError

POLL_S = 0.02


class PowerDisk:
    """A mounted ``tests.support.fuse``; the caller must be where it may mount."""

    def __init__(self, mountpoint: Path) -> None:
        self.path = mountpoint
        self.path.mkdir(parents=True)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuse", str(mountpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear("on")

    def __enter__(self) -> PowerDisk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=10)  # the mount dies with it

    def arm(self, changes: int) -> None:
        """Let the power go so many changes from now."""
        self._tell(f"arm {changes}", "armed")

    def cut(self) -> None:
        """Let the power go now."""
        self._tell("cut", "off")

    def boot(self, seed: int) -> None:
        """Lose what was not safe, as ``seed`` has it, and mount what is left; nobody may have a
        file open any more.
        """
        self._tell(f"boot {seed}", "on")

    def await_off(self, budget_s: float) -> bool:
        """Wait until the power is off; say whether it went before the time was up."""
        deadline = time.monotonic() + budget_s
        while self._tell("state") == "on":
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _tell(self, line: str, expected: str | None = None) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._hear(expected)

    def _hear(self, expected: str | None) -> str:
        assert self._server.stdout is not None
        answer = self._server.stdout.readline().strip()
        if expected is not None and answer != expected:
            raise CommandFailedError(f"the disk at {self.path} says {answer!r}, not {expected!r}")
        return answer
