"""Four workers of unequal speed: each gets the share of jobs that its measured speed is of all
speeds, and ``covey job why`` says for what reasons. ``make soak`` runs it.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import trio

from node.client import Covey, Result, connect
from protocols import job_history as history
from tests.soak.kills import MODEL, sentence
from tests.soak.replay import replayable
from tests.support.machines import Machine, stopping
from tests.support.throttle import Throttle

SPEEDS = (0.2, 0.3, 0.5, 0.6)  # of one core, which leaves a part of two for the submitter
ITEMS = 8
CLIENTS = (3, 5, 7, 9)
"""How many ask each worker by name, and all of them together when nobody is named. A runner
computes in one batch what waits for it: its speed is that at the depth which its share brings."""
ROUNDS = 5
"""The two are measured in turns: what else the machine does then slows both alike."""
MEASURED_S = 9.0
POOLED_S = 15.0
TOLERANCE = 0.15


class Shares:
    """One submitter that is no worker, and a worker for each of ``SPEEDS``."""

    def __init__(self, root: Path) -> None:
        self.submitter = Machine("submitter", root / "submitter")
        self.workers = [Machine(f"worker{n}", root / f"worker{n}") for n in range(len(SPEEDS))]
        self.peers: dict[str, float] = {}
        """Each worker's peer id, and the share of the time that its runners get."""
        self.measured: Counter[str] = Counter()
        self.pooled: Counter[str] = Counter()
        self._texts = count()

    def run(self) -> None:
        """Form the mesh, measure each worker, and let all of them work on one stream of jobs."""
        with stopping(self.submitter, *self.workers), ExitStack() as throttles:
            self.submitter.run("init", "--role", "admitter,submitter")
            self.submitter.up()
            for worker, speed in zip(self.workers, SPEEDS, strict=True):
                ticket = self.submitter.run("ticket", "--role", "worker").stdout.strip()
                worker.run("join", ticket)
                self.peers[worker.json("id")["peer"]] = speed
                worker.run("models", "add", MODEL)
                worker.up()
                assert worker.daemon is not None
                throttle = Throttle(worker.daemon.pid, speed)
                throttle.start()
                throttles.enter_context(closing(throttle))
            self.submitter.until(lambda: self._seen() == len(SPEEDS), "see four workers")
            trio.run(self._work)

    def _seen(self) -> int:
        return sum(MODEL in row["models"] for row in self.submitter.json("peers"))

    async def _work(self) -> None:
        async with connect(self.submitter.home) as covey:
            for _ in range(ROUNDS):
                async with trio.open_nursery() as nursery:
                    for peer, clients in zip(self.peers, CLIENTS, strict=True):
                        for _ in range(clients):
                            nursery.start_soon(self._client, covey, MEASURED_S, self.measured, peer)
                async with trio.open_nursery() as nursery:
                    for _ in range(sum(CLIENTS)):
                        nursery.start_soon(self._client, covey, POOLED_S, self.pooled, None)
            for _ in range(3):
                await self._explained(covey)

    async def _client(
        self, covey: Covey, seconds: float, done: Counter[str], peer: str | None
    ) -> None:
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            result = await self._job(covey, peer)
            if trio.current_time() < end:  # one more for each client would flatter the slow
                done[result.summary["worker"]] += 1

    async def _job(self, covey: Covey, peer: str | None) -> Result:
        texts = [sentence(next(self._texts)) for _ in range(ITEMS)]
        job = await covey.submit("embed", model=MODEL, input=texts, peer=peer)
        return await job.result()

    async def _explained(self, covey: Covey) -> None:
        """Have a job explained, and check that against what the job itself says."""
        texts = [sentence(next(self._texts)) for _ in range(ITEMS)]
        job = await covey.submit("embed", model=MODEL, input=texts)
        worker = (await job.result()).summary["worker"]
        told = await job.why()

        assert told["worker"] == worker
        rows = {row["peer"]: row for row in told["candidates"]}
        assert self.peers.keys() <= rows.keys()
        assert rows[worker]["answer"].endswith("its result was taken")
        steps = told["steps"]
        accepted_at = next(n for n, s in enumerate(steps) if s["what"] == history.ACCEPTED)
        etas = {s["peer"]: s["detail"] for s in steps[:accepted_at] if s["what"] == history.LEASED}
        assert etas[worker] == min(etas.values()), "the soonest of the leases at hand is chosen"
        print(f"job why: {_in_words(self.peers, rows, worker)}")

    def check(self) -> None:
        """Each worker's share of the jobs is what its speed is of all speeds."""
        off = {peer: self._off_by(peer) for peer in self.peers}
        assert max(map(abs, off.values())) <= TOLERANCE, self.summary()

    def _off_by(self, peer: str) -> float:
        speed = self.measured[peer] / self.measured.total()
        return self.pooled[peer] / self.pooled.total() / speed - 1

    def summary(self) -> str:
        """Say what each worker was seen to do, and how many jobs it got."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for peer, speed in self.peers.items():
            alone = self.measured[peer] / (ROUNDS * MEASURED_S)
            share = self.pooled[peer] / self.pooled.total()
            yield (
                f"{peer[-6:]} at {speed:.0%} of a core: {alone:.2f} jobs/s when named; "
                f"{share:.1%} of {self.pooled.total()} jobs, {self._off_by(peer):+.1%} of its share"
            )


def _in_words(peers: dict[str, float], rows: dict[str, dict[str, Any]], worker: str) -> str:
    named = [(f"{rows[peer]['speed']:.0f} GFLOP/s {rows[peer]['basis']}", peer) for peer in peers]
    return "; ".join(f"{'* ' if peer == worker else ''}{peer[-6:]} {said}" for said, peer in named)


def main() -> None:
    began = time.monotonic()
    with replayable("shares", {}):
        with tempfile.TemporaryDirectory(prefix="covey-") as root:
            shares = Shares(Path(root))
            shares.run()
        print(shares.summary())
        shares.check()
    print(f"every share within {TOLERANCE:.0%} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
