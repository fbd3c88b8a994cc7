"""Real multicast on the loopback interface."""

from __future__ import annotations

import logging

import pytest
import trio
import zeroconf

from peer.addresses import PeerAddress
from peer.mdns import Mdns
from tests.support.members import TestMesh, key_of

pytestmark = pytest.mark.e2e

MESH = TestMesh().root.public
OTHER_MESH = key_of(50).public
PATIENCE_S = 30


class Ear:
    """What one peer's mDNS reported."""

    def __init__(self, number: int, mesh: bytes = MESH) -> None:
        self.heard: list[PeerAddress] = []
        self.was_told = trio.Event()
        self.peer_id = key_of(number).peer_id
        self.mdns = Mdns(self.peer_id, mesh, self.hear)

    def hear(self, found: PeerAddress) -> None:
        self.heard.append(found)
        self.was_told.set()


def loopback(port: int) -> list[str]:
    return [f"/ip4/127.0.0.1/tcp/{port}"]


async def test_two_peers_of_one_mesh_find_each_other_on_loopback():
    one, two = Ear(1), Ear(2)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(one.mdns.run, loopback(40_001))
            await nursery.start(two.mdns.run, loopback(40_002))
            await one.was_told.wait()
            await two.was_told.wait()
            nursery.cancel_scope.cancel()

    assert set(one.heard) == {PeerAddress(two.peer_id, "/ip4/127.0.0.1/tcp/40002")}
    assert set(two.heard) == {PeerAddress(one.peer_id, "/ip4/127.0.0.1/tcp/40001")}


async def test_a_peer_of_another_mesh_is_not_reported():
    stranger, one, two = Ear(3, OTHER_MESH), Ear(1), Ear(2)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger.mdns.run, loopback(40_003))
            await nursery.start(one.mdns.run, loopback(40_001))
            await nursery.start(two.mdns.run, loopback(40_002))
            await one.was_told.wait()
            await two.was_told.wait()
            nursery.cancel_scope.cancel()

    assert stranger.heard == []
    assert stranger.peer_id not in {found.peer_id for found in (*one.heard, *two.heard)}


async def test_without_multicast_one_line_says_so_and_the_peer_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    said = trio.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "mdns is off":
                said.set()

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no multicast here")

    monkeypatch.setattr(zeroconf, "Zeroconf", refuse)
    logger, notice = logging.getLogger("peer.mdns"), Notice()
    logger.addHandler(notice)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(Ear(1).mdns.run, loopback(40_001))
            await said.wait()
            nursery.cancel_scope.cancel()

    logger.removeHandler(notice)
    assert [record.levelname for record in caplog.records if record.name == "peer.mdns"] == [
        "WARNING"
    ]
