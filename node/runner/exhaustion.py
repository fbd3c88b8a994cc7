"""Whether an error says that memory ran out: of the machine, of the limit, or of a device.

It is the worker's lack, not the job's fault: elsewhere the same job may well run.
"""

from __future__ import annotations

from typing import Final

_DEVICE: Final = "OutOfMemoryError"
"""torch's class for accelerators, by name: not every runner imports torch."""
_SAID: Final = ("DefaultCPUAllocator: ", "bad_alloc", "CUDA error: out of memory", "_ALLOC_FAILED")
"""Of what torch raises as a plain RuntimeError, with nothing but its message to tell."""


def is_exhaustion(error: BaseException) -> bool:
    """Whether an allocation failed."""
    if isinstance(error, MemoryError) or type(error).__name__ == _DEVICE:
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
