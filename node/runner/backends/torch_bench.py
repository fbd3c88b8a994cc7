"""What benchmarks of the machine compute, in torch on the processor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from node.manifest import ModelError
from node.runner.host import memory_available_bytes, usable_cores
from node.runner.kinds import BadInputError, Facts

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_SHARE: Final = 0.25  # of what is free: a benchmark may not push the machine into swapping


def execution() -> Facts:
    """Return how it is computed; raises ``ModelError`` where torch is not installed."""
    try:
        import torch  # here, where a model would be loaded: its two seconds are in no figure
    except ImportError as error:
        raise ModelError(
            "torch is not installed on this worker, and benchmarks compute with it",
            code="package-missing",
            hint="pip install 'covey[worker]'",
        ) from error
    return {
        "engine": f"torch {torch.__version__}",
        "device": "cpu",
        "threads": usable_cores(),
        "nice": os.nice(0),
    }


class Matmul:
    """Multiplies two square matrices in ``fp32`` or ``bf16``."""

    def __init__(self, size: int, dtype: str, threads: int) -> None:
        self._size = size
        self._dtype = dtype
        self._threads = threads

    def prepare(self) -> None:
        """Make the matrices and take the threads."""
        import torch

        dtype = torch.bfloat16 if self._dtype == "bf16" else torch.float32
        torch.set_num_threads(self._threads)
        made = torch.Generator().manual_seed(0)
        shape = self._size, self._size
        self._a: Tensor = torch.rand(shape, generator=made).to(dtype)
        self._b: Tensor = torch.rand(shape, generator=made).to(dtype)
        self._out: Tensor = torch.empty_like(self._a)

    def run(self) -> None:
        """Multiply once."""
        import torch

        torch.mm(self._a, self._b, out=self._out)


class Copying:
    """Copies, or reads, a block of memory that no cache holds."""

    def __init__(self, size_bytes: int, threads: int) -> None:
        self._size_bytes = size_bytes
        self._threads = threads
        self._is_made = False

    def prepare(self) -> None:
        """Take the threads; the first time, make the block and touch all of it. Raises
        ``BadInputError`` when it is too large for this machine now.
        """
        import torch

        torch.set_num_threads(self._threads)
        if not self._is_made:
            check_room(2 * self._size_bytes, memory_available_bytes())
            self._source: Tensor = torch.ones(self._size_bytes // 4)
            self._target: Tensor = torch.zeros_like(self._source)
            self._is_made = True

    def copy(self) -> None:
        """Read and write all of it once."""
        self._target.copy_(self._source)

    def read(self) -> None:
        """Read all of it once."""
        self._source.sum()


def check_room(needed_bytes: int, available_bytes: int | None) -> None:
    """Raise ``BadInputError`` for a benchmark that would take too much of the memory that is free;
    where nothing is known of it, everything fits.
    """
    if available_bytes is not None and needed_bytes > available_bytes * MEMORY_SHARE:
        raise BadInputError(
            f"the benchmark needs {needed_bytes >> 20} MiB, over a quarter of the "
            f"{available_bytes >> 20} MiB that are free here",
            hint="measure with a smaller copy_mb, or free memory",
        )
