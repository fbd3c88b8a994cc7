"""The virtual clock of the tests is the same on a busy machine."""

from __future__ import annotations

import threading

import trio
from trio.testing import MockClock


async def test_no_virtual_time_passes_while_a_thread_works(autojump_clock: MockClock) -> None:
    async def other() -> None:
        for _ in range(1_000):
            await trio.lowlevel.checkpoint()
        let_go.set()

    let_go = threading.Event()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with trio.fail_after(1):
            await trio.to_thread.run_sync(let_go.wait)
    assert trio.current_time() == began

    await trio.sleep(3_600)

    assert trio.current_time() == began + 3_600
