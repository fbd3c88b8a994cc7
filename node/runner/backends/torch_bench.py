"""What benchmarks of the machine compute, in torch on the processor or on an accelerator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from node.manifest import ModelError
from node.runner.host import memory_available_bytes
from node.runner.kinds import BadInputError, EngineSettings, Facts
from node.runner.measure import accelerators

if TYPE_CHECKING:
    from torch import Tensor

CPU: Final = "cpu"
MEMORY_SHARE: Final = 0.25  # of what is free: a benchmark may not push the machine into swapping


def execution(settings: EngineSettings) -> Facts:
    """Return how it is computed, and on which accelerator by name; raises ``ModelError`` where
    torch is not installed.
    """
    try:
        import torch  # here, where a model would be loaded: its two seconds are in no figure
    except ImportError as error:
        raise ModelError(
            "torch is not installed on this worker, and benchmarks compute with it",
            code="package-missing",
            hint="pip install 'covey[worker]'",
        ) from error
    known: Facts = {
        "engine": f"torch {torch.__version__}",
        "device": settings.device,
        "threads": settings.threads,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),  # a confined runner may ask, and change nothing
    }
    if settings.device == CPU:
        return known
    names = [str(each["name"]) for each in accelerators() if each["backend"] == settings.device]
    return {**known, "accelerator": names[0] if names else settings.device}


def ready(device: str, threads: int) -> None:
    """Take the threads, where they are the processor's."""
    import torch

    if device == CPU:
        torch.set_num_threads(threads)


def finish(device: str) -> None:
    """Wait until the device has computed what it was given."""
    import torch

    if device != CPU:
        torch.accelerator.synchronize()


class Matmul:
    """Multiplies two square matrices in ``fp32`` or ``bf16``."""

    def __init__(self, size: int, dtype: str, threads: int, device: str) -> None:
        self._size = size
        self._dtype = dtype
        self._threads = threads
        self._device = device

    def prepare(self) -> None:
        """Make the matrices and take the threads."""
        import torch

        ready(self._device, self._threads)
        dtype = torch.bfloat16 if self._dtype == "bf16" else torch.float32
        made = torch.Generator(self._device).manual_seed(0)
        shape = self._size, self._size
        like: Any = {"generator": made, "device": self._device}
        self._a: Tensor = torch.rand(shape, **like).to(dtype)
        self._b: Tensor = torch.rand(shape, **like).to(dtype)
        self._out: Tensor = torch.empty_like(self._a)

    def run(self) -> None:
        """Multiply once."""
        import torch

        torch.mm(self._a, self._b, out=self._out)
        finish(self._device)


class Copying:
    """Copies, or reads, a block of memory that no cache holds."""

    def __init__(self, size_bytes: int, threads: int, device: str) -> None:
        self.size_bytes = size_bytes
        self._threads = threads
        self._device = device
        self._is_made = False

    def prepare(self) -> None:
        """Take the threads; the first time, make the block and touch all of it. Raises
        ``BadInputError`` when it is too large for this machine now.
        """
        import torch

        ready(self._device, self._threads)
        if not self._is_made:
            if self._device == CPU:
                check_room(2 * self.size_bytes, memory_available_bytes())
            self._source: Tensor = torch.ones(self.size_bytes // 4, device=self._device)
            self._target: Tensor = torch.zeros_like(self._source)
            self._is_made = True

    def copy(self) -> None:
        """Read and write all of it once."""
        self._target.copy_(self._source)
        finish(self._device)

    def read(self) -> None:
        """Read all of it once."""
        self._source.sum()
        finish(self._device)


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
