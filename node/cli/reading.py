"""How reading commands get their answer: from the daemon, or from the node's files when it is
down.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from node.cli.connection import connect, home
from peer.cli import note
from peer.starting import wait_for_daemon

if TYPE_CHECKING:
    from peer.exporting import Sources
    from peer.feeds import Feeds


@contextmanager
def reader() -> Generator[Callable[..., Any]]:
    """Give a function ``read(path, **query)`` over the control API or, without a daemon, over the
    files.
    """
    if _is_owned():
        with connect() as client:
            yield client.get
        return
    yield _read_files


def _is_owned() -> bool:
    """Say whether a daemon owns the files, so that it is to be asked; one that starts or stops is
    waited for.
    """
    place = home()
    wait_for_daemon(place)
    return place.is_locked()


def _read_files(path: str, **query: Any) -> Any:
    import trio

    answer = trio.run(_answer, path, query)
    note("covey: no daemon answers; the files were read")
    return answer


async def _answer(path: str, query: dict[str, Any]) -> Any:
    """Bring the index up to date with the journal and answer from it, as the daemon would."""
    from node.backing import Backing
    from node.reading import READERS

    folder, _, cid = path.rpartition("/")
    route, query = (f"{folder}/{{cid}}", {"cid": cid}) if folder else (path, query)
    async with _opened() as (sources, feeds):
        await sources.index.catch_up()
        backing = Backing.of(sources.journal, feeds)
        return await sources.index.ask(lambda store: READERS[route](store, query, backing))


def download(form: str, out: BinaryIO, since: str) -> Any:
    """Write an export to ``out`` and return its summary."""
    if _is_owned():
        with connect() as client:
            return client.download(f"/export/{form}", out, since=since)

    async def export(sources: Sources, _: Feeds) -> Any:
        from peer import exporting

        return await sources.export(form, exporting.since(since), out)

    return _from_files(export)


def verify(cid: str, mesh: str) -> Any:
    """Return what the signed bytes of a record are worth."""
    if _is_owned():
        with connect() as client:
            return client.get(f"/verify/{cid}", mesh=mesh)

    async def judge(sources: Sources, _: Feeds) -> Any:
        from node import reading

        return await reading.verify(sources, cid, mesh)

    return _from_files(judge)


def check() -> Any:
    """Return what is wrong with what this node holds."""
    if _is_owned():
        with connect(answer_s=None) as client:  # it reads all there is
            return client.post("/check")

    async def walk(sources: Sources, feeds: Feeds) -> Any:
        from node.check import Check

        return await Check(sources.index, sources.journal, feeds).run()

    return _from_files(walk)


def _from_files(question: Callable[[Sources, Feeds], Awaitable[Any]]) -> Any:
    import trio

    async def ask() -> Any:
        async with _opened() as opened:
            return await question(*opened)

    answer = trio.run(ask)
    note("covey: no daemon answers; the files were read")
    return answer


@asynccontextmanager
async def _opened() -> AsyncGenerator[tuple[Sources, Feeds]]:
    """Open the node's files, whose lock nobody else has meanwhile."""
    from node.config import NodeConfig
    from node.index import open_index
    from peer.config import load
    from peer.effects import system_effects
    from peer.exporting import Sources
    from peer.feeds import Feeds
    from peer.identity import Identity
    from peer.journal import Journal
    from peer.service import running

    place = home()
    config = load(NodeConfig, place.config, os.environ).values
    identity = Identity.load(place.path)
    async with place.locked():
        with closing(Journal.open(place.journal)) as journal:
            index = open_index(journal, place, identity, config)
            async with running(index.run):
                feeds = Feeds(journal, identity.key, system_effects(), identity.member.mesh)
                yield Sources(index, journal, identity, feeds.bodies.redactions), feeds
