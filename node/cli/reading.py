"""How reading commands get their answer: from the daemon, or from the node's files when it is
down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from node.cli.connection import connect, home
from peer.cli import note


@contextmanager
def reader() -> Generator[Callable[..., Any]]:
    """Give a function ``read(path, **query)`` over the control API or, without a daemon, over the
    files.
    """
    if home().is_locked():  # somebody owns the files, so ask them
        with connect() as client:
            yield client.get
        return
    yield _read_files


def _read_files(path: str, **query: Any) -> Any:
    import trio

    answer = trio.run(_answer, path, query)
    note("covey: no daemon answers; the files were read")
    return answer


async def _answer(path: str, query: dict[str, Any]) -> Any:
    """Bring the index up to date with the journal and answer from it, as the daemon would."""
    from node.config import NodeConfig
    from node.index import open_index
    from node.reading import READERS
    from peer.config import load
    from peer.identity import Identity
    from peer.journal import Journal
    from peer.service import running

    place = home()
    config = load(NodeConfig, place.config, os.environ).values
    identity = Identity.load(place.path)
    folder, _, cid = path.rpartition("/")
    route, query = (f"{folder}/{{cid}}", {"cid": cid}) if folder else (path, query)
    async with place.locked():
        journal = Journal.open(place.journal)
        index = open_index(journal, place, identity, config)
        async with running(index.run):
            await index.catch_up()
            return await index.ask(lambda s: READERS[route](s, query))
