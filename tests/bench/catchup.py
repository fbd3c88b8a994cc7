"""Figures ``catchup_…``: an aggregator takes in what fifty peers recorded while it was away for a
day, 4.3 million records, and is stopped in the middle.

The bundles go the whole way of the puller: asked for by what is held, unpacked, verified, kept with
an fsync, acknowledged, and in the index. Half-way the puller is cancelled in mid-stride and the
journal closed; another one opens it, asks again, and is sent what it lacks. Counted is the CPU time
of all of that, the second start included. The baseline unpacks the same bundles into a file, an
fsync a frame, and believes everything.

``CATCHUP_RECORDS`` makes it smaller, for those who work on it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import trio

from aggregator.store import Store
from peer.effects import system_effects
from peer.feed_puller import FeedPuller
from peer.feed_server import Recent
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.service import running
from protocols.keys import SigningKey
from protocols.sync import BundleMessage, Have, HeldRuns, Side, Tip, Want, encode, unpack
from protocols.told import Wanted
from tests.bench.day_of_feeds import EPOCH, FEEDS, Day, Frame, K
from tests.bench.figure import Figure, figure
from tests.bench.processes import rss_mb

RECORDS = int(os.environ.get("CATCHUP_RECORDS", "4320000"))
KEY = SigningKey.from_seed(b"a" * 32)


def figures() -> Iterator[Figure]:
    """Make a day of records, take it in with a stop half-way, and unpack it as the baseline."""
    with tempfile.TemporaryDirectory(prefix="covey-bench-") as folder:
        day = Day(Path(folder) / "day")
        day.write(max(2, round(RECORDS / FEEDS / K)))
        bundles = sum(frame.bundles for frame in day.frames)
        _say(f"{bundles * K:,} records in {bundles:,} bundles, {day.path.stat().st_size:,} bytes")
        base_s = _believed_s(day)
        server = Server(day, stop_after=bundles // 2)
        cpu_s = _caught_up_s(Path(folder), server, bundles * K)
    rate, base = bundles * K / cpu_s, bundles * K / base_s
    name = "unpacked into a file, an fsync a frame"
    yield figure(
        "catchup_records_s", "records/CPU-s", [rate], n=bundles * K, baseline=name,
        baseline_rounds=[base],
    )  # fmt: skip
    yield figure("catchup_cpu_s", "s CPU", [cpu_s], n=bundles * K)
    yield figure("catchup_bundles_twice", "bundles", [server.sent - bundles], n=bundles)
    yield figure("catchup_bundles_a_group", "bundles", [server.largest_group], n=bundles)


def _caught_up_s(folder: Path, server: Server, expected: int) -> float:
    """Return the CPU time of both parts; raise unless every record is in the index."""
    before, since = time.process_time(), time.perf_counter()
    trio.run(_take_in, folder, server, None)
    _say(f"stopped after {server.sent:,} bundles: {time.process_time() - before:.0f} CPU-s")
    trio.run(_take_in, folder, server, expected)
    cpu_s = time.process_time() - before
    _say(f"all taken in: {cpu_s:.0f} CPU-s, {time.perf_counter() - since:.0f} s by the clock")
    _say(f"memory {rss_mb(os.getpid()):.0f} MB")
    return cpu_s


async def _take_in(folder: Path, server: Server, expected: int | None) -> None:
    """Pull until the server ends, or until it has had enough (``expected`` is none)."""
    journal = Journal.open(folder / "journal")
    feeds = Feeds(journal, KEY, system_effects())
    index = Index(journal, folder / "index.duckdb", KEY.public, Store.open)
    puller = FeedPuller(cast("Any", server), feeds, server.peer_id, Recent(), follow=False)
    with trio.CancelScope() as server.scope:
        async with running(journal.run, index.run):
            await puller.run()
            await index.catch_up()
            rows = await index.ask(lambda store: store.rows())
            if rows.records != expected:
                raise RuntimeError(f"{rows.records} of {expected} records are in the index")
    journal.close()


class Server:
    """Another peer, whose answers lie in a file: a transport, and each stream of it."""

    peer_id = SigningKey.from_seed(b"s" * 32).peer_id

    def __init__(self, day: Day, stop_after: int) -> None:
        self.scope = trio.CancelScope()
        self.sent = 0
        self.largest_group = 0
        self._day = day
        self._stop_after = stop_after
        self._side = Side.server()
        self._wanted = Wanted()
        self._answers: Iterator[bytes] = iter(())

    async def open_stream(self, *_: object) -> Server:
        """Begin anew."""
        self._side, self._wanted = Side.server(), Wanted()
        self._answers = self._frames()
        return self

    async def send(self, frame: bytes) -> None:
        """Hear what is held; acknowledgements are only heard."""
        await trio.lowlevel.checkpoint()
        for message in self._side.receive(frame):
            if isinstance(message, Want):
                self._wanted.want(message)

    async def receive(self) -> bytes | None:
        """Return the next frame, and half-way cancel who asked."""
        await trio.lowlevel.checkpoint()
        if 0 < self._stop_after <= self.sent:
            self._stop_after = 0
            self.scope.cancel()
        return next(self._answers, None)

    async def aclose(self) -> None:
        """Nothing is held."""
        await trio.lowlevel.checkpoint()

    def _frames(self) -> Iterator[bytes]:
        runs = self._day.runs.items()
        yield encode(
            [Have(tuple(HeldRuns(feed, EPOCH, (tuple(run),)) for feed, run in runs), False)]
        )
        with self._day.path.open("rb") as file:
            for frame in self._day.frames:
                skipped = min(frame.bundles, max(0, self._held(frame) // K))
                if skipped < frame.bundles:
                    self.sent += frame.bundles - skipped
                    self.largest_group = max(self.largest_group, frame.bundles)
                    yield _read(file, frame, skipped)
        yield encode([Tip()])

    def _held(self, frame: Frame) -> int:
        """Return how many records of a frame the puller said that it holds."""
        ranges = self._wanted.ranges.get((frame.feed, EPOCH), ())
        return max((end for _, end in ranges), default=0) - frame.first_sequence


def _read(file: BinaryIO, frame: Frame, skipped: int) -> bytes:
    file.seek(frame.offset)
    payload = file.read(frame.size)
    return payload if not skipped else encode(_bundles(payload)[skipped:])


def _bundles(payload: bytes) -> list[BundleMessage]:
    side = Side.puller()
    side.receive(encode([Have((), False)]))
    return [each for each in side.receive(payload) if isinstance(each, BundleMessage)]


def _believed_s(day: Day) -> float:
    """Return the CPU time of unpacking every frame into a file."""
    before = time.process_time()
    with day.path.open("rb") as file, day.path.with_name("believed").open("wb") as out:
        for frame in day.frames:
            out.write(b"".join(map(unpack, _bundles(_read(file, frame, 0)))))
            out.flush()
            os.fdatasync(out.fileno())
    day.path.with_name("believed").unlink()
    return time.process_time() - before


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
