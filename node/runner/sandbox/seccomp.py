"""The kernel's filter of system calls: a small program that it runs before each call.

What is not allowed fails with ``EPERM``, so that a job that tries it fails with a plain error; what
is newer than we know does not exist (``ENOSYS``), so that libraries fall back. Calls of another
architecture, which have other numbers, end the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Final

from node.runner.sandbox import kernel
from node.runner.sandbox.kernel import KernelRefusedError
from node.runner.sandbox.syscalls import ALLOWED, LOW, NEWER, Argument, Numbers, conditional

Instruction = tuple[int, int, int, int]
"""Code, jump if so, jump if not, operand."""

SECCOMP: Final = (317, 277)
SET_MODE_FILTER: Final = 1
GET_ACTION_AVAIL: Final = 2
SPEC_ALLOW: Final = 1 << 2
"""Before Linux 5.16 a filter switched on a mitigation for Spectre that slows every store down. It
protects a process from itself, and a runner has nothing in it but one model's jobs.
"""

ARCHITECTURES: Final = (0xC000_003E, 0xC000_00B7)

ALLOW: Final = 0x7FFF_0000
FAIL: Final = 0x0005_0000
KILL_PROCESS: Final = 0x8000_0000

LOAD: Final = 0x20  # a word of struct seccomp_data
AND: Final = 0x54
EQUAL: Final = 0x15
AT_LEAST: Final = 0x35
RETURN: Final = 0x06

NUMBER_AT: Final = 0
ARCHITECTURE_AT: Final = 4
ARGUMENTS_AT: Final = 16


def is_available() -> bool:
    """Whether this process may filter its own calls; changes nothing."""
    column = kernel.machine()
    if column is None:
        return False
    action = ctypes.c_uint32(KILL_PROCESS)
    try:
        kernel.syscall(SECCOMP[column], GET_ACTION_AVAIL, 0, ctypes.addressof(action))
    except KernelRefusedError:
        return False
    return True


def confine(column: int) -> None:
    """Allow this process and all its later threads only what ``syscalls`` lists, for good.

    It must have no other thread yet and no new privileges to gain. Raises ``KernelRefusedError``.
    """
    install(column, program(column, os.getpid()))


def install(column: int, instructions: list[Instruction]) -> None:
    """Have the kernel run ``instructions`` before each call of this thread; raises
    ``KernelRefusedError``.
    """
    packed = b"".join(struct.pack("HBBI", *each) for each in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    pointer = ctypes.create_string_buffer(header, len(header))
    kernel.syscall(SECCOMP[column], SET_MODE_FILTER, SPEC_ALLOW, ctypes.addressof(pointer))


def program(column: int, own_pid: int) -> list[Instruction]:
    """Return the filter for the machine of ``column`` and the process ``own_pid``."""
    return [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[column]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
        *_plain(column),
        *_conditional(column, own_pid),
        (AT_LEAST, 0, 1, NEWER),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
        (RETURN, 0, 0, FAIL | errno.EPERM),
    ]


def _plain(column: int) -> Iterator[Instruction]:
    for numbers in ALLOWED.values():
        yield from _when(numbers, column, [(RETURN, 0, 0, ALLOW)])


def _conditional(column: int, own_pid: int) -> Iterator[Instruction]:
    for numbers, arguments in conditional(own_pid).values():
        checks = [instruction for each in arguments for instruction in _check(each)]
        yield from _when(numbers, column, [*checks, (RETURN, 0, 0, ALLOW)])


def _when(numbers: Numbers, column: int, block: list[Instruction]) -> list[Instruction]:
    """Run ``block``, which must return, for one call; go on after it for all others."""
    number = numbers[column]
    return [] if number is None else [(EQUAL, 0, len(block), number), *block]


def _check(argument: Argument) -> Iterator[Instruction]:
    """Fail the call unless the argument has one of its values."""
    # little-endian: the low half comes first
    yield (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument.nth + 4 * argument.is_high)
    if argument.bits != LOW:
        yield (AND, 0, 0, argument.bits)
    for left, value in zip(range(len(argument.values), 0, -1), argument.values, strict=True):
        yield (EQUAL, left, 0, value)
    yield (RETURN, 0, 0, FAIL | errno.EPERM)
