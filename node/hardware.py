"""This machine's hardware as measured, and the software that our records name.

The daemon never imports torch: another process measures, at normal priority, and prints what it
found.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast

import trio

from node.runner.environment import child_environment
from node.runner.host import cpu_model, logical_cores, usable_cores
from peer.scrub import scrub
from protocols.benchmark import Figure
from protocols.errors import CoveyError

MEASURE_WITHIN_S: Final = 90.0  # 5 s on a quiet machine, most of it torch's import from a cold disk
RECENT_S: Final = 600.0  # a daemon that a supervisor starts again and again measures once
MAX_TEXT_BYTES: Final = 64
MAX_FLAG_BYTES: Final = 16
MAX_ACCELERATORS: Final = 4  # kinds of device, not devices: a machine has one or two
SHOWN_STDERR_CHARS: Final = 600

ACCELERATED_SPEED: Final = "matmul_fp32_gflops"

ADVERTISED: Final = {
    "matmul_fp32_one_thread_gflops": ("matmul_fp32_gflops", "one_thread"),
    "matmul_fp32_all_threads_gflops": ("matmul_fp32_gflops", "all_threads"),
    "memory_copy_one_thread_gb_s": ("memory_copy_gb_s", "one_thread"),
    "memory_copy_all_threads_gb_s": ("memory_copy_gb_s", "all_threads"),
}
"""The figures of benchmarks that adverts state, and where ``measure`` puts the same quantity."""


class MeasureError(CoveyError):
    """The hardware could not be measured."""

    default_code = "measure-failed"


async def measure() -> dict[str, Any]:
    """Return what the hardware is and does, as DAG-CBOR values; raises ``MeasureError``. Takes a
    few seconds.
    """
    try:
        with trio.fail_after(MEASURE_WITHIN_S):
            finished = await trio.run_process(
                [sys.executable, "-P", "-m", "node.runner.measure"],
                env=child_environment(os.environ, usable_cores()),
                cwd="/",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                stdin=subprocess.DEVNULL,
            )
    except (OSError, trio.TooSlowError) as error:
        raise MeasureError(f"the hardware was not measured: {type(error).__name__}") from error
    if finished.returncode:
        said = scrub(finished.stderr.decode(errors="replace").strip())[-SHOWN_STDERR_CHARS:]
        raise MeasureError(
            f"measuring the hardware ended with status {finished.returncode}: {said}"
        )
    return checked(json.loads(finished.stdout))


def is_recent(measured: dict[str, Any], now_us: int) -> bool:
    """Whether a start at ``now_us`` can do with what was measured before, and when it was."""
    age_s = (now_us - measured.get("measured_at_us", 0)) / 1e6
    return 0 <= age_s < RECENT_S and measured.get("usable_cores") == usable_cores()


def capabilities(measured: dict[str, Any], device: str) -> dict[str, Any]:
    """Return the figures of ``measure`` that fit an advert: at most 2 KiB, whatever the hardware
    calls itself. Of accelerators only that on which runners compute, of the backend ``device``, has
    any.
    """
    memory = min(
        measured.get(name, math.inf) for name in ("memory_total_bytes", "cgroup_memory_bytes")
    )
    compact = {
        "cpu_model": _cut(measured["cpu_model"]),
        "cpu_flags": [_cut(flag, MAX_FLAG_BYTES) for flag in measured["cpu_flags"]][:24],
        "cores": measured["usable_cores"],
        "memory_gb": round(memory / 1e9, 1) if math.isfinite(memory) else None,
        "matmul_gflops": _median(measured, "matmul_fp32_gflops", "all_threads"),
        "matmul_gflops_one_thread": _median(measured, "matmul_fp32_gflops", "one_thread"),
        "matmul_n": measured["matmul_fp32_gflops"]["all_threads"]["n"],
        "measured_at_us": measured.get("measured_at_us"),
        "memory_gb_s": _median(measured, "memory_copy_gb_s", "all_threads")
        or _median(measured, "memory_copy_gb_s", "one_thread"),
        "engine": _cut(measured["engine"]),
        "accelerators": _grouped(measured["accelerators"], device),
    }
    return {name: value for name, value in compact.items() if value is not None}


def with_figures(measured: dict[str, Any], figures: Iterable[Figure]) -> dict[str, Any]:
    """Return ``measured`` with what a benchmark found instead of what the last start did. Nothing
    else changes: of other figures adverts say nothing.
    """
    renewed = {**measured}
    for figure in figures:
        if (place := ADVERTISED.get(figure.name)) is None:
            continue
        of, threads = place
        renewed[of] = {**renewed.get(of, {}), threads: _spread(figure)}
    return renewed


def _spread(figure: Figure) -> dict[str, Any]:
    return {
        "median": figure.median,
        "min": figure.least,
        "max": figure.most,
        "n": figure.n,
        "threads": figure.threads,
    }


def environment() -> dict[str, Any]:
    """Return the software that computes here, for the record of the environment. Imports nothing of
    it.
    """
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "torch": _version("torch"),
        "covey": _version("covey"),
    }


def unmeasured() -> dict[str, Any]:
    """Return what can be said of the hardware before, or without, a measurement."""
    return {
        "cpu_model": _cut(_one_line(cpu_model())),
        "cores": min(usable_cores(), logical_cores()),
    }


def _cut(text: object, size_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return as much of a text as fits into so many bytes of UTF-8."""
    return str(text).encode()[:size_bytes].decode(errors="ignore")


def _median(measured: dict[str, Any], figure: str, threads: str) -> float | None:
    spread = measured[figure].get(threads)
    return None if spread is None else round(float(spread["median"]), 1)


def _grouped(accelerators: list[dict[str, Any]], computing: str) -> list[dict[str, Any]]:
    """Return each kind of device once, with how many there are, and what was measured of the first
    one if its backend is the ``computing`` one.
    """
    groups: dict[tuple[str, str, int], dict[str, Any]] = {}
    for device in accelerators:
        backend, name = _cut(device["backend"], MAX_FLAG_BYTES), _cut(device["name"])
        size = int(device["memory_bytes"])
        stated = {"backend": backend, "name": name, "memory_gb": round(size / 1e9, 1), "count": 0}
        if ACCELERATED_SPEED in device and backend == computing:
            stated |= _accelerated(device)
        groups.setdefault((backend, name, size), stated)["count"] += 1
    return list(groups.values())[:MAX_ACCELERATORS]


def _accelerated(device: dict[str, Any]) -> dict[str, Any]:
    return {
        "matmul_gflops": round(device[ACCELERATED_SPEED]["median"], 1),
        "matmul_bf16_gflops": round(device["matmul_bf16_gflops"]["median"], 1),
        "matmul_n": device[ACCELERATED_SPEED]["n"],
        "memory_gb_s": round(device["memory_copy_gb_s"]["median"], 1),
    }


def checked(value: Any) -> Any:
    """Return ``value`` with every text in one line, if every number in it is finite: a record could
    not hold another.
    """
    match value:
        case dict():
            return {
                str(key): checked(inner) for key, inner in cast("dict[Any, Any]", value).items()
            }
        case list():
            return [checked(inner) for inner in cast("list[Any]", value)]
        case str():
            return _one_line(value)
        case float() if not math.isfinite(value):
            raise MeasureError(f"measuring the hardware gave the number {value}")
        case _:
            return value


def _one_line(text: str) -> str:
    """Return a name without what would act on a terminal: drivers and firmware say anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
