"""Linux system calls that Python does not offer, by ``ctypes``."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38

MACHINES: Final = {"x86_64": 0, "aarch64": 1}
"""The machines whose system calls we know, and their column in ``syscalls``."""

_libc = ctypes.CDLL(None, use_errno=True)


class KernelRefusedError(OSError):
    """The kernel, or a container around us, refused a call."""


def machine() -> int | None:
    """Return this machine's column in ``syscalls``, or None when we know nothing of it."""
    is_native = sys.platform == "linux" and sys.maxsize > 1 << 32
    return MACHINES.get(platform.machine()) if is_native else None


def syscall(number: int, *arguments: int) -> int:
    """Make a system call and return what it returns; raises ``KernelRefusedError``."""
    result = _libc.syscall(*map(ctypes.c_long, (number, *arguments)))
    if result < 0:
        raise _refused()
    return result


def forbid_new_privileges() -> None:
    """Take from this process for good what set-user-id programs could give it, without which no
    unprivileged process may confine itself; raises ``KernelRefusedError``.
    """
    if _libc.prctl(*map(ctypes.c_ulong, (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))):
        raise _refused()


def _refused() -> KernelRefusedError:
    number = ctypes.get_errno()
    return KernelRefusedError(number, os.strerror(number))
