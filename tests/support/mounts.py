"""Mounts of a test's own, which vanish with its process: the process runs in a mount namespace, and
where it is not root in a user namespace in which it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

NAMESPACES = (("unshare", "--map-root-user", "--mount"), ("unshare", "--mount"))
_TMPFS = "mount -t tmpfs none /mnt"
_FUSE = "exec 3<>/dev/fuse && mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none /mnt"


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module where it may mount; raise where it may not."""
    prefix = _prefix(_TMPFS)
    if not prefix:
        raise RuntimeError(why_not() or "")
    return [*prefix, sys.executable, "-m", module, *arguments]


def why_not(*, fuse: bool = False) -> str | None:
    """Say why nothing can be mounted here; none if it can."""
    if not _prefix(_TMPFS):
        return "neither root nor a user namespace may mount here"
    if fuse and not _prefix(_FUSE):
        return "/dev/fuse cannot be mounted here"
    return None


@cache
def _prefix(script: str) -> tuple[str, ...]:
    for prefix in NAMESPACES:
        try:
            done = subprocess.run(
                [*prefix, "sh", "-c", script], capture_output=True, timeout=30, check=False
            )
        except OSError:  # there is no unshare
            continue
        if done.returncode == 0:
            return prefix
    return ()


def run_here(module: str) -> None:
    """Become ``python -m module`` in a namespace where it may mount, unless that is done already.

    The first thing that such a module does: it starts anew, with the same environment.
    """
    if os.environ.get("COVEY_TEST_MOUNTS") == str(Path("/proc/self/ns/mnt").readlink()):
        return
    begin = 'COVEY_TEST_MOUNTS=$(readlink /proc/self/ns/mnt) exec "$@"'
    *prefix, python, _, _ = command(module)
    os.execvp(prefix[0], [*prefix, "sh", "-c", begin, "sh", python, "-m", module])
