"""Makes machines unequal: what a daemon starts runs for a share of the time only."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

PERIOD_S = 0.05


class Throttle(threading.Thread):
    """Lets the children of process ``pid`` run for ``share`` of each ``PERIOD_S`` until closed.

    The daemon itself always runs, as it would on a machine with slow arithmetic.
    """

    def __init__(self, pid: int, share: float) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._share = share
        self._closed = threading.Event()

    def run(self) -> None:
        """Stop and continue the children in turn."""
        while not self._closed.wait(PERIOD_S * (1 - self._share)):
            self._signal(signal.SIGCONT)
            self._closed.wait(PERIOD_S * self._share)
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """Leave the children running."""
        self._closed.set()
        self.join()
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        for child in descendants(self._pid):
            try:
                os.kill(child, sign)
            except ProcessLookupError:
                continue  # it has ended meanwhile


def descendants(pid: int) -> list[int]:
    """Return the processes that ``pid`` started, and those that they did."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(each) for task in tasks for each in (task / "children").read_text().split()]
    except OSError:
        return []
    return found + [each for child in found for each in descendants(child)]
