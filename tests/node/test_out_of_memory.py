"""Memory that runs out is a worker's lack: told as such, with real torch, and tried elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from trio.testing import MockClock

from node.runner.embedder import EmbedEngine
from node.runner.exhaustion import is_exhaustion
from node.runner.kinds import Broken, Finished, embed
from node.runner.service import failure_of
from protocols.errors import JobFailed
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.unit.test_embed_kind import LengthEncoder, finish

ALLOCATIONS = """
import json, resource
import numpy, torch
from node.runner.service import failure_of

torch.zeros(1)
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
size = 8 << 30
codes = {}
for name, allocate in {
    "empty": lambda: torch.empty(size, dtype=torch.uint8).fill_(1),
    "matmul": lambda: torch.zeros(60_000, 1) @ torch.zeros(1, 60_000),
    "numpy": lambda: numpy.ones(size, dtype="u1"),
    "bytes": lambda: bytes(size),
}.items():
    try:
        allocate()
    except Exception as error:
        codes[name] = failure_of(1, error, "job-failed").code
print(json.dumps(codes))
"""


def too_much() -> RuntimeError:
    """What torch says of more memory than there is."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds for all memory on Linux only")
def test_whatever_allocates_too_much_within_a_limit_is_out_of_memory() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ALLOCATIONS], capture_output=True, check=True, timeout=120
    )

    codes = json.loads(ended.stdout)
    assert codes == dict.fromkeys(("empty", "matmul", "numpy", "bytes"), "out-of-memory")


def test_what_an_accelerator_lacks_is_out_of_memory_and_other_errors_are_not() -> None:
    assert is_exhaustion(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_exhaustion(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_exhaustion(ValueError("DefaultCPUAllocator: said by a job"))


async def test_a_job_that_a_worker_has_no_memory_for_is_done_by_another(
    autojump_clock: MockClock,
) -> None:
    told = failure_of(1, too_much(), "job-failed")
    failed = JobFailed(told.message, code=told.code, exceptions=told.exceptions)
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.add("worker", speed=1e6, runners=FakeRunnerPool(error=failed))
    healthy = mesh.add("worker", runners=FakeRunnerPool(estimate=5.0))

    async with mesh.running():
        result = await submitter.submitter.run(spec())

    assert (result.worker, result.attempts) == (healthy.peer_id, 2)


class SmallEncoder(LengthEncoder):
    """Has memory for ``room`` rows at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def encode(self, rows: list[list[int]]) -> NDArray[np.float32]:
        if len(rows) > self.room:
            raise too_much()
        return super().encode(rows)


def test_a_batch_that_is_too_large_is_computed_in_two_halves() -> None:
    running = EmbedEngine(SmallEncoder(3), 64)
    running.start(1, embed.encode_input(["a", "bb", "cc", "dd", "ee"]))

    *_, finished = finish(running)

    assert isinstance(finished, Finished)
    lengths = embed.array(finished.output)[:, 0].tolist()
    assert lengths == [1, 2, 2, 2, 2]
    assert finished.execution["max_rows"] == 3


def test_halves_that_are_too_large_fail_their_jobs_as_out_of_memory() -> None:
    running = EmbedEngine(SmallEncoder(1), 64)
    running.start(1, embed.encode_input(["aa", "bb", "cc", "dd"]))

    (broken,) = finish(running)

    assert isinstance(broken, Broken)
    assert failure_of(1, broken.error, "job-failed").code == "out-of-memory"
