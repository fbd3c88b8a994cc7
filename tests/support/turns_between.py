"""The turn of the event loop between the end of a nursery's last task and that of who opened it:
the nursery is closed already, and nobody has been told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import trio


class _AtExit(trio.abc.Instrument):
    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self._name = name
        self._act = act
        self.calls = 0
        self.raised: list[Exception] = []

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if self._name in task.name:
            self.calls += 1
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - trio would only log what an instrument raises
                self.raised.append(error)


@contextmanager
def when_exits(name: str, act: Callable[[], object]) -> Generator[None]:
    """Call ``act`` whenever a task of that name has ended, before any other task goes on; raises
    what it raised when the block ends.
    """
    instrument = _AtExit(name, act)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert instrument.calls, f"no task {name} ended"
    if instrument.raised:
        raise ExceptionGroup("between two turns", instrument.raised)
