"""Limits that the kernel keeps for a runner at every level but ``off``, on every system that has
them.

Not the address space (``RLIMIT_AS``): CUDA reserves far more of it than it uses, and threads and
allocators reserve some too. Not the number of processes: it counts all of the user's, and threads.
"""

from __future__ import annotations

import resource
import sys
from typing import Final

from node.runner.host import cgroup_memory_bytes, memory_total_bytes
from node.runner.sandbox import kernel

MEMORY_SHARE: Final = 0.9
"""Of the machine's or control group's memory, for all runners together: an allocation past its part
fails a runner's job, where the kernel would have to kill some process, perhaps the daemon.
"""
OPEN_FILES: Final = 256  # loading a model has a dozen open


def apply(memory_bytes: int = 0) -> None:
    """Limit this process for good, to ``memory_bytes`` if that is not 0; raises ``OSError``."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)  # no byte into any file; pipes and devices are none
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    known = [n for n in (memory_total_bytes(), cgroup_memory_bytes()) if n is not None]
    limits = [int(min(known) * MEMORY_SHARE)] if known else []
    if memory_bytes:
        limits.append(memory_bytes)
    if limits:
        # data and private memory that can be written to; what is only reserved does not count
        _lower(resource.RLIMIT_DATA, min(limits))
    if sys.platform == "linux":
        kernel.forbid_new_privileges()


def _lower(limit: int, value: int) -> None:
    _, most = resource.getrlimit(limit)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(limit, (value, value))
