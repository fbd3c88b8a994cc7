"""Clients that make a node write records as fast as it can: jobs that compute nothing, each with
three records, submitted again with the same id until there is an answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from node import requests
from node.runner.kinds import kind_named
from peer.control import ControlClient
from protocols.errors import CoveyError
from tests.support.machines import Machine

KIND, MODEL = "bench.noop", "noop"
CIDS = ("submitted_cid", "record_cid", "accepted_cid")
CLIENTS = 4
RETRY_S = 0.2
PATIENCE_S = 120.0


class Emitters:
    """Clients of one node. ``told`` are the CIDs of the records that the node said it has."""

    def __init__(self, node: Machine, rng: random.Random) -> None:
        self.told: set[str] = set()
        self.retries: Counter[str] = Counter()
        self._node = node
        self._rng = rng
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._jobs: list[Future[None]] = []
        self._over = threading.Event()

    def submit(self, count: int) -> None:
        """Have ``count`` more jobs done, as fast as it goes."""
        job_ids = [self._rng.randbytes(16).hex() for _ in range(count)]
        self._jobs += [self._threads.submit(self._one_job, job_id) for job_id in job_ids]

    def finish(self) -> int:
        """Return how many jobs there were, once each is done; raise what one failed with."""
        for job in self._jobs:
            job.result()
        return len(self._jobs)

    def close(self) -> None:
        """Give up what is not done."""
        self._over.set()
        self._threads.shutdown(cancel_futures=True)

    def _one_job(self, job_id: str) -> None:
        content = kind_named(KIND).encode_input([job_id])
        job = requests.JobRequest(KIND, MODEL, content, items=1, job_id=job_id)
        deadline = time.monotonic() + PATIENCE_S
        while not self._over.is_set():
            assert time.monotonic() < deadline, f"job {job_id} has no result: {self.retries}"
            try:
                with ControlClient(self._node.home / "control.sock", hint="") as control:
                    summary = requests.run(control, job, lambda _: None).summary
            except CoveyError as error:
                self.retries[error.code] += 1
                self._over.wait(RETRY_S)
            else:
                self.told |= {
                    summary[f"{each}_cid"] for each in ("submitted", "record", "accepted")
                }
                return
