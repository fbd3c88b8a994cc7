"""A peer that starts again finds those whom it met before."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from peer.neighbours import NEIGHBOURS_FILE, Neighbours
from protocols.limits import MAX_NEIGHBOURS
from tests.support.members import TestMesh, TestPeer, key_of, peer_of, running
from tests.support.memory import MemoryNetwork

MESH = TestMesh()


def member(network: MemoryNetwork, number: int) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number)))


def remembering(peer: TestPeer, home: Path) -> Neighbours:
    """Have ``peer`` remember its neighbours, and dial those of an earlier life."""
    neighbours = Neighbours(home, peer.directory)
    peer.greeter.on_met(neighbours.met)
    for found in neighbours:
        peer.discovery.add(found, "memory")
    return neighbours


async def save(neighbours: Neighbours) -> None:
    """Let them run, and stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(neighbours.run)
        nursery.cancel_scope.cancel()


async def test_a_restarted_peer_that_nobody_named_anyone_to_finds_its_neighbours_at_once(
    autojump_clock: MockClock, tmp_path: Path
):
    network = MemoryNetwork()
    one, two, again = member(network, 1), member(network, 2), member(network, 1)
    two.seeks = False
    neighbours = remembering(one, tmp_path)

    async with running(two):
        async with running(one):
            await two.connect(one)
            await trio.sleep(1)
        await save(neighbours)
        remembering(again, tmp_path)
        async with running(again):
            await trio.sleep(0.1)

            assert again.has_met(two)


async def test_only_those_met_last_are_remembered(tmp_path: Path):
    one = member(MemoryNetwork(), 1)
    neighbours = Neighbours(tmp_path, one.directory)
    keys = [key_of(number) for number in range(2, MAX_NEIGHBOURS + 4)]
    for key in [*keys, keys[3]]:
        one.directory.met(key.peer_id, MESH.membership(key), ("/ip4/192.0.2.7/tcp/1",))
        neighbours.met(key.peer_id)
    await save(neighbours)

    kept = [found.peer_id for found in Neighbours(tmp_path, one.directory)]

    assert kept == [key.peer_id for key in (*keys[2:3], *keys[4:], keys[3])]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"mesh": "another", "peers": {}}',
        b'{"mesh": "MESH", "peers": []}',
        b'{"mesh": "MESH", "peers": {"PEER": 7}}',
        b'{"mesh": "MESH", "peers": {"PEER": ["no address"], "nobody": ["/ip4/192.0.2.7/tcp/1"]}}',
    ],
)
async def test_a_file_that_is_damaged_or_of_another_mesh_names_nobody(
    tmp_path: Path, content: bytes
):
    one = member(MemoryNetwork(), 1)
    peer = key_of(2).peer_id.encode()
    mesh = MESH.root.peer_id.encode()
    path = tmp_path / NEIGHBOURS_FILE
    path.write_bytes(content.replace(b"MESH", mesh).replace(b"PEER", peer))

    assert list(Neighbours(tmp_path, one.directory)) == []


async def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path):
    one = member(MemoryNetwork(), 1)
    neighbours = Neighbours(tmp_path / "missing", one.directory)
    one.directory.met(key_of(2).peer_id, MESH.membership(key_of(2)), ("/ip4/192.0.2.7/tcp/1",))
    neighbours.met(key_of(2).peer_id)

    await save(neighbours)

    assert len(neighbours) == 1
    assert not (tmp_path / "missing").exists()
