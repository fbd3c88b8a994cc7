"""The system calls that a confined runner may make, by their numbers on x86-64 and aarch64.

A list of what is allowed, not of what is forbidden: whatever a newer kernel brings is forbidden
until somebody puts it here. Found by tracing a runner that loads and computes, and completed by
what the C library uses instead on other versions.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Numbers = tuple[int | None, int | None]
"""A call's number on x86-64 and on aarch64; None where it does not exist."""

NEWER: Final = 424
"""Calls from this number on have the same number everywhere and came with Linux 5.1 or later, so
that every library can do without them. They do not exist for a runner: it uses what it knows how to
check. ``clone3``, whose flags a filter cannot see, is one of them, ``io_uring_setup`` another.
"""

ALLOWED: Final[dict[str, Numbers]] = {
    # asked thousands of times a second, so first: kernels before 5.11 walk the list
    "futex": (202, 98),
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    # memory; mbind is where in it
    "brk": (12, 214),
    "mremap": (25, 216),
    "mbind": (237, 235),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "membarrier": (324, 283),
    # files and pipes: landlock says which, and leaves no device for ioctl to command
    "close": (3, 57),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "lseek": (8, 62),
    "newfstatat": (262, 79),
    "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "faccessat": (269, 48),
    "access": (21, None),
    "readlinkat": (267, 78),
    "readlink": (89, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "ioctl": (16, 29),
    # waiting
    "ppoll": (271, 73),
    "poll": (7, None),
    "pselect6": (270, 72),
    "select": (23, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    # clocks, and what this machine is
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    # threads; arch_prctl asks for AMX
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168),
    "getpriority": (140, 141),
    # signals, and the end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # who this process is
    "gettid": (186, 178),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
}
"""Calls that are harmless whatever their arguments are."""

LOW: Final = 0xFFFF_FFFF
PR_SET_NAME: Final = 15
PR_GET_NAME: Final = 16
PR_SET_VMA: Final = 0x5356_4D41  # names a mapping, for whoever looks at the memory
F_DUPFD_CLOEXEC: Final = 1030
OPEN_FOR_MORE: Final = (
    0o1103  # write, create, and empty, which landlock's versions 1 and 2 let pass
)
CLONE_THREAD: Final = 0x1_0100  # in the same memory
CLONE_ELSE: Final = 0xFE82_E000  # traced, vfork, untraced, every namespace, shared I/O


class Argument(NamedTuple):
    """The half of an argument that a filter looks at: its ``bits`` must be one of ``values``."""

    nth: int
    values: tuple[int, ...]
    bits: int = LOW
    is_high: bool = False


def conditional(own_pid: int) -> dict[str, tuple[Numbers, tuple[Argument, ...]]]:
    """Return the calls that are allowed with certain arguments only, for process ``own_pid``."""
    return {
        # to read
        "openat": ((257, 56), (Argument(2, (0,), OPEN_FOR_MORE),)),
        "open": ((2, None), (Argument(1, (0,), OPEN_FOR_MORE),)),
        # a thread, never a process, in no other namespace
        "clone": ((56, 220), (Argument(0, (CLONE_THREAD,), CLONE_THREAD | CLONE_ELSE),)),
        # F_DUPFD to F_SETFL; not F_SETOWN, which sends signals to others
        "fcntl": ((72, 25), (Argument(1, (0, 1, 2, 3, 4, F_DUPFD_CLOEXEC)),)),
        # not PR_SET_PDEATHSIG: a runner ends with its daemon
        "prctl": ((157, 167), (Argument(0, (PR_SET_NAME, PR_GET_NAME, PR_SET_VMA)),)),
        # reading limits, never setting one: the new limit is a null pointer
        "prlimit64": ((302, 261), (Argument(2, (0,)), Argument(2, (0,), is_high=True))),
        # of the calling thread, as OpenMP does; not of another process
        "sched_setaffinity": ((203, 122), (Argument(0, (0,)),)),
        # abort() and faulthandler: a signal to a thread of our own
        "tgkill": ((234, 131), (Argument(0, (own_pid,)),)),
    }
