"""``python -m node.runner.measure``: what this machine's hardware is and does, as one JSON object
on stdout.

Facts are read from the operating system; multiplication and memory speed are measured, in under two
seconds of processor time besides the imports. torch measures where it is installed; without it
NumPy does, and ``engine`` says so: NumPy copies memory on one thread, so its figure for all threads
is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from node.runner import host
from node.runner.environment import THREAD_VARIABLES

MATMUL_SIZE: Final = 768  # 0.9 GFLOP: 10 to 50 ms a time on one core, and larger than its caches
COPY_BYTES: Final = 64 << 20  # larger than the last-level cache of most machines
REPEATS_MAX: Final = 12
FIGURE_CPU_S: Final = 0.35  # of processor time for one figure
ACCELERATOR_TIMES: Final = 8  # as wide, and as much memory: less would measure how soon it begins
PRODUCT_S: Final = 0.1  # at most, on a slow accelerator of less wide ones: it is done 26 times
NUMPY_ONE_THREAD: Final = "--numpy-one-thread"

Figure = dict[str, int | float]
Accelerator = dict[str, str | int | Figure]


def main() -> None:
    """Print the measurements."""
    if NUMPY_ONE_THREAD in sys.argv:
        answer: Any = _numpy_matmul()
    else:
        answer = {
            **facts(),
            **(_with_torch() if importlib.util.find_spec("torch") else _with_numpy()),
        }
    sys.stdout.write(json.dumps(answer) + "\n")


def facts() -> dict[str, Any]:
    """Return what the operating system says; unknown numbers are left out."""
    known = {
        "cpu_model": host.cpu_model(),
        "cpu_flags": sorted(host.cpu_flags()),
        "logical_cores": host.logical_cores(),
        "affinity_cores": host.affinity_cores(),
        "usable_cores": host.usable_cores(),
        "cgroup_cpus": host.cgroup_cpus(),
        "cgroup_memory_bytes": host.cgroup_memory_bytes(),
        "memory_total_bytes": host.memory_total_bytes(),
        "memory_available_bytes": host.memory_available_bytes(),
    }
    return {name: value for name, value in known.items() if value is not None}


def repeated(work: Callable[[], object], amount: float, threads: int) -> Figure:
    """Do ``work`` several times and return ``amount`` a second, with the spread; once more before,
    to warm up.
    """
    work()
    rates: list[float] = []
    began = time.process_time()
    while len(rates) < 3 or (
        len(rates) < REPEATS_MAX and time.process_time() - began < FIGURE_CPU_S
    ):
        start = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - start))
    return {
        "median": round(statistics.median(rates), 3),
        "min": round(min(rates), 3),
        "max": round(max(rates), 3),
        "n": len(rates),
        "threads": threads,
    }


def _with_torch() -> dict[str, Any]:
    import torch

    threads = host.usable_cores()
    a, b = torch.rand(MATMUL_SIZE, MATMUL_SIZE), torch.rand(MATMUL_SIZE, MATMUL_SIZE)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    figures: dict[str, dict[str, Figure]] = {"matmul_fp32_gflops": {}, "memory_copy_gb_s": {}}
    for name, count in {"one_thread": 1, "all_threads": threads}.items():
        torch.set_num_threads(count)
        figures["matmul_fp32_gflops"][name] = repeated(lambda: a @ b, _matmul_gflop(), count)
        figures["memory_copy_gb_s"][name] = repeated(
            lambda: target.copy_(source), _copied_gb(), count
        )
    return {
        "engine": f"torch {version('torch')}",
        "torch": version("torch"),
        "accelerators": _with_first_measured(accelerators()),
        **figures,
        **_sizes(),
    }


def _with_numpy() -> dict[str, Any]:
    import numpy as np

    threads = host.usable_cores()
    source = np.ones(COPY_BYTES // 4, dtype=np.float32)
    target = np.empty_like(source)
    copied = repeated(lambda: np.copyto(target, source), _copied_gb(), 1)
    # its threads are fixed once it is imported, hence another process for one of them
    one_thread = subprocess.run(
        [sys.executable, "-P", "-m", "node.runner.measure", NUMPY_ONE_THREAD],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        "engine": f"numpy {version('numpy')}",
        "torch": None,
        "accelerators": [],
        "matmul_fp32_gflops": {
            "one_thread": json.loads(one_thread.stdout),
            "all_threads": {**_numpy_matmul(), "threads": threads},
        },
        "memory_copy_gb_s": {"one_thread": copied},
        **_sizes(),
    }


def _numpy_matmul() -> Figure:
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.random((MATMUL_SIZE, MATMUL_SIZE), dtype=np.float32) for _ in range(2))
    return repeated(lambda: a @ b, _matmul_gflop(), 1)


def _with_first_measured(found: list[Accelerator]) -> list[Accelerator]:
    """Return the same with what the first one does, on which runners compute: multiply in fp32 (not
    TF32) and bf16, and copy memory. One that has no room now stays unmeasured.
    """
    if not found:
        return found
    try:
        import torch

        figures = accelerator_figures(str(found[0]["backend"]), torch.accelerator.synchronize)
        return [{**found[0], **figures}, *found[1:]]
    except RuntimeError:  # torch's class of whatever a device refuses
        return found


def accelerator_figures(device: str, finish: Callable[[], None]) -> dict[str, Figure]:
    """Return what a device of torch's does; ``finish`` waits until it has done it."""
    import torch

    def rate(work: Callable[[], object], amount: float) -> Figure:
        return repeated(lambda: (work(), finish()), amount, 1)

    times = _times_as_wide(device, finish)
    a, b = torch.rand(2, times * MATMUL_SIZE, times * MATMUL_SIZE, device=device)
    a16, b16 = a.bfloat16(), b.bfloat16()
    source = torch.ones(times * COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    gflop = times**3 * _matmul_gflop()
    return {
        "matmul_fp32_gflops": rate(lambda: a @ b, gflop),
        "matmul_bf16_gflops": rate(lambda: a16 @ b16, gflop),
        "memory_copy_gb_s": rate(lambda: target.copy_(source), times * _copied_gb()),
    }


def _times_as_wide(device: str, finish: Callable[[], None]) -> int:
    """Return how many times as wide as the processor's its matrices are, by doubling."""
    import torch

    times = 1
    while times < ACCELERATOR_TIMES:
        a, b = torch.rand(2, times * MATMUL_SIZE, times * MATMUL_SIZE, device=device)
        torch.mm(a, b)  # to warm up
        finish()
        began = time.perf_counter()
        torch.mm(a, b)
        finish()
        if 8 * (time.perf_counter() - began) > PRODUCT_S:
            break
        times *= 2
    return times


def accelerators() -> list[Accelerator]:
    """Return the devices that torch can compute on, besides the processor."""
    import torch

    found: list[Accelerator] = []
    for backend, devices in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        for index in range(devices.device_count() if devices.is_available() else 0):
            properties: Any = devices.get_device_properties(index)
            found.append(
                {
                    "backend": backend,
                    "name": properties.name,
                    "memory_bytes": int(properties.total_memory),
                }
            )
    if torch.backends.mps.is_available():
        memory_bytes = int(torch.mps.recommended_max_memory())
        found.append({"backend": "mps", "name": host.cpu_model(), "memory_bytes": memory_bytes})
    return found


def _matmul_gflop() -> float:
    return 2 * MATMUL_SIZE**3 / 1e9


def _copied_gb() -> float:
    """Read once and written once, as the STREAM benchmark counts."""
    return 2 * COPY_BYTES / 1e9


def _sizes() -> dict[str, int]:
    return {"matmul_size": MATMUL_SIZE, "copy_bytes": COPY_BYTES}


if __name__ == "__main__":
    main()
