"""Ten nodes in two halves for half an hour of virtual time, each half with an aggregator."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from functools import partial
from itertools import combinations
from pathlib import Path

import msgspec
import trio
from trio.testing import MockClock

from protocols.errors import TransportError
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet, until
from tests.support.feeds import START_US, after, bundle, key, record
from tests.support.memory import MemoryNetwork

SEED = int(os.environ.get("SEED", "20"))
NODES = 10
PARTITION_S = 1_800.0
HEALED_S = 60.0
REDIAL_S = 20.0
YEAR_US = 365 * 86_400_000_000
CLOCKS_US = (START_US, START_US + 50 * YEAR_US, START_US - 40 * YEAR_US, 0, (1 << 62) - 1)
"""What the wall clocks of peers say: now, far in the future, far in the past, and the ends."""


async def test_ten_nodes_apart_for_half_an_hour_agree_within_a_minute(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rng = random.Random(SEED)
    meeting = Meeting(tmp_path, MemoryNetwork(SEED, delay_s=(0.001, 0.05)))
    policies = {f"peer{n}": FOLLOWING if n < 2 else OPEN for n in range(NODES + 2)}
    async with meeting.peers(**policies) as peers, trio.open_nursery() as nursery:
        halves = peers[0::2], peers[1::2]  # one aggregator and five nodes each
        stop = trio.Event()
        for one, other in combinations(peers, 2):
            if one in peers[:2]:  # nodes of no common job have no business with each other
                nursery.start_soon(_stay_connected, one, other)
        for number, peer in enumerate(peers):
            clock_us = CLOCKS_US[number % len(CLOCKS_US)]
            nursery.start_soon(partial(_go_on_recording, peer, rng, clock_us, stop))
        await trio.sleep(60)
        _set_partition(meeting, *halves, is_cut=True)
        await _fork(*halves)
        await trio.sleep(PARTITION_S)
        behind, records = not _agree(peers[:2]), [peer.feeds.next_sequence for peer in peers]
        stop.set()
        _set_partition(meeting, *halves, is_cut=False)
        await until(lambda: _agree(peers[:2]) and _holds_all(peers), within_s=HEALED_S)
        forks = [set(peer.feeds.forks) for peer in peers[:2]]
        holes = [peer.feeds.holes for peer in peers[:2]]
        nursery.cancel_scope.cancel()

    assert behind, f"seed {SEED}: a partition that nobody notices tests nothing"
    assert min(records) > PARTITION_S / 120, f"seed {SEED}"
    assert forks == [{(key(99).public, 1)}] * 2, f"seed {SEED}"
    assert holes == [{}, {}], f"seed {SEED}"


async def _stay_connected(one: Peer, other: Peer) -> None:
    """Dial again whenever the connection is lost, as discovery does."""
    while True:
        if other.transport.peer_id not in one.transport.connected():
            with suppress(TransportError):
                await meet(one, other)
        await trio.sleep(REDIAL_S)


async def _go_on_recording(peer: Peer, rng: random.Random, clock_us: int, stop: trio.Event) -> None:
    number = 0
    while not stop.is_set():
        made = msgspec.structs.replace(record(peer.key, number), start_us=clock_us)
        await peer.feeds.append(made)
        number += 1
        await trio.sleep(rng.expovariate(1 / 60))


async def _fork(left: list[Peer], right: list[Peer]) -> None:
    """A key that lives on both sides signs two histories."""
    trunk = bundle(key(99))
    for side, marker in ((left, 1), (right, 2)):
        branch = [trunk]
        for _ in range(5):
            branch.append(after(branch[-1], marker=marker, author=key(99)))
        await side[-1].feeds.add_all(branch)


def _set_partition(meeting: Meeting, left: list[Peer], right: list[Peer], *, is_cut: bool) -> None:
    change = meeting.network.partition if is_cut else meeting.network.heal
    for one in left:
        for other in right:
            change(one.transport.peer_id, other.transport.peer_id)


def _agree(aggregators: list[Peer]) -> bool:
    return len({peer.feeds.state_root() for peer in aggregators}) == 1


def _holds_all(peers: list[Peer]) -> bool:
    """Whether an aggregator has every record that anybody wrote, each in a bundle."""
    held = peers[0].feeds.last_seen
    return all(
        held(peer.key.public) == (peer.feeds.epoch, peer.feeds.next_sequence) for peer in peers
    )
