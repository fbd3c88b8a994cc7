"""What a runner may do to the machine that it runs on, should a job take it over.

``strict``: compute, and read its own model and the software that computes; no network, no other
process, no write. ``basic``: limits on memory and files, and no new privileges. ``off``: whatever
the daemon's user may. ``docs/sandbox.md`` says what each guarantees and what not.

A process confines itself, for good, before it has a second thread and before it decodes anything
that somebody else sent. Every thread and library that comes later is confined from its start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.runner.sandbox import files, kernel, landlock, limits, seccomp
from node.runner.sandbox.kernel import KernelRefusedError
from protocols.errors import CoveyError

STRICT: Final = "strict"
BASIC: Final = "basic"
OFF: Final = "off"
AUTO: Final = "auto"
"""What may be asked for besides the three levels: the strictest that there is."""


class SandboxError(CoveyError):
    """A runner could not be confined as it was to be; it computed nothing."""

    default_code = "runner-sandbox"


class SandboxUnavailableError(CoveyError):
    """The level that was asked for cannot be had on this machine."""

    default_code = "sandbox-unavailable"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The level that runners have here, and what it is short of ``strict`` for, if anything."""

    level: str
    reason: str = ""


def choose(wanted: str) -> Sandbox:
    """Return what runners get when the configuration says ``wanted``: a level or ``auto``.

    Raises ``SandboxUnavailableError`` when that is ``strict`` and there is no such thing here.
    """
    if wanted in (BASIC, OFF):
        return Sandbox(wanted, "the configuration says so")
    lacks = lacking()
    if not lacks:
        return Sandbox(STRICT)
    if wanted == STRICT:
        raise SandboxUnavailableError(
            f"runners cannot have the sandbox strict: {lacks}",
            hint="set [runners] sandbox to auto or basic (COVEY_RUNNERS_SANDBOX), "
            "or see docs/sandbox.md for what strict needs",
        )
    return Sandbox(BASIC, lacks)


def beside_device(level: str, device: str) -> str:
    """Return the level of a runner on ``device``: an accelerator's driver wants sockets, links and
    files that ``strict`` does not give.
    """
    return BASIC if level == STRICT and device != "cpu" else level


def lacking() -> str:
    """Return what this machine lacks for ``strict``, or nothing; changes nothing."""
    if kernel.machine() is None:
        system = os.uname()
        return f"it exists on Linux on x86-64 and aarch64, not on {system.sysname} {system.machine}"
    if not landlock.version():
        return "the kernel or the container offers no landlock"
    if not seccomp.is_available():
        return "the kernel or the container refuses filters of system calls (seccomp)"
    return ""


def confine(level: str, folder: Path, memory_bytes: int = 0) -> None:
    """Confine this process, for good, to ``level``, with its model in ``folder``, and to so much
    memory; 0 for all that runners may have together.

    Raises ``SandboxError`` when that is not possible, or when another thread, which would stay
    free, exists already.
    """
    if level == OFF:
        return
    try:
        limits.apply(memory_bytes)
        if level == STRICT:
            _confine_strictly(folder)
    except OSError as error:
        raise SandboxError(
            f"the runner could not be confined to {level}: {error.strerror}",
            hint="see docs/sandbox.md, or set [runners] sandbox (COVEY_RUNNERS_SANDBOX)",
        ) from error


def _confine_strictly(folder: Path) -> None:
    column = kernel.machine()
    if column is None:
        raise KernelRefusedError(0, lacking())
    if len(os.listdir("/proc/self/task")) > 1:
        raise SandboxError("a thread was there before the sandbox, and would stay outside")
    landlock.confine(files.readable(folder), map(Path, files.MADE_UP))
    seccomp.confine(column)  # last: it forbids the calls that the others need
