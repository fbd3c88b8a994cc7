"""What the operating system says about this machine: processor, cores, memory, and the limits of
our control group.

Everything is read from files at each call and may be absent (another system, a container): absent
numbers are None, absent flags are an empty set. Nothing is measured here.
"""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import Final

_X86: Final = "avx avx2 avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 fma f16c"
_X86_TILES: Final = "amx_tile amx_int8 amx_bf16"
_ARM: Final = "asimd asimddp sve sve2 i8mm bf16"
FLAGS_OF_INTEREST: Final = frozenset(f"{_X86} {_X86_TILES} {_ARM}".split())

BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 with tiles, ARM

UNLIMITED_V1: Final = 1 << 60  # control groups of version 1 write nearly 2^63 for "no limit"

PROC: Final = Path("/proc")
CGROUP: Final = Path("/sys/fs/cgroup")


@cache
def cpu_flags() -> frozenset[str]:
    """Return the processor's instruction sets that matter for inference."""
    named = _cpuinfo().get("flags") or _cpuinfo().get("Features") or ""
    return frozenset(named.split()) & FLAGS_OF_INTEREST


def cpu_model() -> str:
    """Return the processor's name, or its architecture when it has none."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def logical_cores() -> int:
    """Return the cores that the machine has."""
    return os.cpu_count() or 1


def affinity_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return logical_cores()


def usable_cores() -> int:
    """Return the cores to plan with: those allowed to us, or fewer when our control group has a
    smaller share of time.
    """
    share = cgroup_cpus()
    cores = affinity_cores()
    return max(1, min(cores, math.ceil(share))) if share else cores


def compute_threads() -> int:
    """Return the threads a runner may use. One core stays free: with all of them busy, OpenMP's
    barriers wait on a descheduled thread.
    """
    return max(1, usable_cores() - 1)


def cgroup_cpus() -> float | None:
    """Return our control group's share of processor time in cores, or None without a limit."""
    for folder in _cgroup_folders(""):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    for folder in _cgroup_folders("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota and period and quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return None


def cgroup_memory_bytes() -> int | None:
    """Return our control group's memory limit, or None without one."""
    found = [_number(_read(folder / "memory.max")) for folder in _cgroup_folders("")]
    found += [
        _number(_read(folder / "memory.limit_in_bytes")) for folder in _cgroup_folders("memory")
    ]
    return min((n for n in found if n is not None and n < UNLIMITED_V1), default=None)


def memory_total_bytes() -> int | None:
    """Return the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def memory_available_bytes() -> int | None:
    """Return the memory that could be had now without swapping, as the kernel estimates it."""
    for line in (_read(PROC / "meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def cgroup_available_bytes() -> int | None:
    """Return what our control group and its parents may still take, or None without a limit; what
    they keep of files that were read counts as free.
    """
    free = [
        *_cgroup_free("", "memory.max", "memory.current", "inactive_file"),
        *_cgroup_free(
            "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
    ]
    return min(free, default=None)


def _cgroup_free(controller: str, limit: str, usage: str, cached: str) -> list[int]:
    free: list[int] = []
    for folder in _cgroup_folders(controller):
        most, used = _number(_read(folder / limit)), _number(_read(folder / usage))
        if most is not None and used is not None and most < UNLIMITED_V1:
            lines = (_read(folder / "memory.stat") or "").splitlines()
            stat = dict(line.split(maxsplit=1) for line in lines if " " in line)
            free.append(max(0, most - used + int(stat.get(cached, 0))))
    return free


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has now; 0 when the system does not say."""
    told = (_read(PROC / str(pid) / "statm") or "").split()
    return int(told[1]) * os.sysconf("SC_PAGE_SIZE") if len(told) > 1 else 0


@cache
def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in ``/proc/cpuinfo``."""
    first = (_read(PROC / "cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cgroup_folders(controller: str) -> list[Path]:
    """Return where our control group of ``controller`` (version 1) or of version 2 (``""``) and its
    parents may be seen.

    In a container the path in ``/proc/self/cgroup`` may be one outside of it, hence the mount's own
    root comes last.
    """
    for line in (_read(PROC / "self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = CGROUP / controller
            own = mount / path.lstrip("/")
            return [own, *(p for p in own.parents if p.is_relative_to(mount))]
    return []


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
