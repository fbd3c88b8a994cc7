"""The kernel's landlock: which files this process may still open, whatever its user may.

It confines the calling thread and those that it starts afterwards. What is open already stays open.
Names and attributes of files are not hidden, only their content.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from node.runner.sandbox import kernel
from node.runner.sandbox.kernel import KernelRefusedError

CREATE_RULESET: Final = 444  # these three have one number everywhere
ADD_RULE: Final = 445
RESTRICT_SELF: Final = 446
ASK_VERSION: Final = 1
PATH_BENEATH: Final = 1

READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3

RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Every right over files that a version of landlock knows, by the version that brought it."""
TCP: Final = 0b11  # bind and connect, from version 4
SCOPES: Final = 0b11  # abstract sockets and signals of processes outside, from version 6


def version() -> int:
    """Return the version of the kernel's landlock, 0 without one; changes nothing."""
    if kernel.machine() is None:
        return 0
    try:
        return kernel.syscall(CREATE_RULESET, 0, 0, ASK_VERSION)
    except KernelRefusedError:
        return 0


def confine(readable: Iterable[Path], made_up: Iterable[Path]) -> None:
    """Take every right over files from this thread and its later ones, for good, but to read what
    is ``readable`` or below it. What does not exist is skipped.

    Files that the kernel makes up when somebody looks at them (``/proc``) may be other files the
    next time, unless they are kept open: these are the ``made_up``. Raises ``KernelRefusedError``.
    """
    known = version()
    rights = max(rights for since, rights in RIGHTS.items() if since <= max(known, 1))
    rules = _create(rights, TCP if known >= 4 else 0, SCOPES if known >= 6 else 0)
    try:
        for path in readable:
            _allow(rules, path)
        for path in made_up:
            _allow(rules, path, is_kept=True)
        kernel.syscall(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _create(rights: int, network: int, scopes: int) -> int:
    attributes = struct.pack("QQQ", rights, network, scopes)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    # older kernels know fewer fields, and take ours because those that they do not know are 0
    return kernel.syscall(CREATE_RULESET, ctypes.addressof(buffer), len(attributes), 0)


def _allow(rules: int, path: Path, *, is_kept: bool = False) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    try:
        is_folder = stat.S_ISDIR(os.fstat(target).st_mode)
        rights = READ_FILE | READ_DIR if is_folder else READ_FILE
        rule = struct.pack("=Qi", rights, target)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.syscall(ADD_RULE, rules, PATH_BENEATH, ctypes.addressof(buffer), 0)
    finally:
        if not is_kept:
            os.close(target)
