"""Commands that come while a daemon starts or stops."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette

from peer import starting
from peer.control import serve
from peer.home import Home
from peer.starting import DaemonStartingError, wait_for_daemon


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        yield Home(Path(folder), "covey.toml")


async def waited(home: Home) -> None:
    with trio.fail_after(30):
        await trio.to_thread.run_sync(wait_for_daemon, home)


async def test_nobody_is_waited_for_where_nobody_is(home: Home) -> None:
    await waited(home)


async def test_a_daemon_that_starts_is_waited_for(home: Home) -> None:
    async with home.locked(), trio.open_nursery() as daemon:
        async with trio.open_nursery() as commands:
            commands.start_soon(waited, home)
            await trio.testing.wait_all_tasks_blocked()
            await daemon.start(partial(serve, Starlette(), home.control_socket))
        daemon.cancel_scope.cancel()


async def test_a_daemon_that_stops_is_waited_for(home: Home) -> None:
    async with trio.open_nursery() as commands, home.locked():
        commands.start_soon(waited, home)
        await trio.testing.wait_all_tasks_blocked()


async def test_who_keeps_the_home_and_does_not_answer_is_said_to_be_starting(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "START_WAIT_S", 0.0)

    async with home.locked():
        with pytest.raises(DaemonStartingError, match="no daemon answers there yet") as refused:
            wait_for_daemon(home)

    assert "try again in a moment" in (refused.value.hint or "")
