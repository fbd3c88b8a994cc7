"""Virtual time that stands still while threads work."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock


@contextmanager
def patient_clock() -> Generator[MockClock]:
    """Yield a clock that jumps to the next deadline when nothing else is to be done.

    Trio's own jumps while a thread works, too: whatever waits for a thread with a deadline would be
    late on a busy machine, and only there.
    """
    clock = MockClock(autojump_threshold=0)
    run_sync: Callable[..., Any] = trio.to_thread.run_sync
    working = 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", counted)
        yield clock
