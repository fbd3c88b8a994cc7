"""The files that a runner needs: its model, Python, the libraries, and what they ask of the kernel
about the machine. Nothing else is readable under ``strict``, and nothing is writable.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGES: Final = Path(__file__).parents[3]
OURS: Final = ("node", "peer", "protocols")

LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
SYSTEM: Final = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",  # read when hashlib is first imported
    "/dev/random",
    "/dev/urandom",
    "/sys/devices/system/cpu",  # cores and caches, to choose threads and block sizes by
    "/sys/devices/system/node",
)
MADE_UP: Final = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self")
"""What the kernel tells of the machine and of this process itself, and of no other."""


def readable(folder: Path) -> Iterator[Path]:
    """Yield what may be read, whole folders with everything below them; ``folder`` is the model's.

    A folder of Python's search path that holds all models would open the node's home with it, such
    as the user's home or ``/``: of that one, only our own packages are readable.
    """
    yield folder
    models = folder.parent.resolve()
    yield from (PACKAGES / name for name in OURS)
    for entry in (*map(Path, sys.path), *map(Path, _interpreter())):
        if not models.is_relative_to(entry.resolve()):
            yield entry
    yield from map(Path, (*LIBRARIES, *SYSTEM))


def _interpreter() -> Iterator[str]:
    """Yield where Python keeps its own modules and shared libraries."""
    yield from (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield os.path.join(sys.base_prefix, "lib")
