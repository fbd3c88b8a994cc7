"""What the operating system says of a machine, from files as several systems write them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from node.hardware import capabilities, environment, with_figures
from node.runner import host
from node.runner.environment import child_environment
from protocols import dagcbor
from protocols.benchmark import figure_of


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    monkeypatch.setattr(host, "PROC", proc)
    monkeypatch.setattr(host, "CGROUP", cgroup)
    return proc, cgroup


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_limits_of_a_version_2_control_group_are_read(roots: tuple[Path, Path]):
    proc, cgroup = roots
    write(proc / "self/cgroup", "0::/app/one\n")
    write(cgroup / "app/one/cpu.max", "max 100000\n")
    write(cgroup / "app/cpu.max", "150000 100000\n")
    write(cgroup / "app/memory.max", "2147483648\n")
    write(cgroup / "app/one/memory.max", "max\n")

    assert host.cgroup_cpus() == 1.5
    assert host.cgroup_memory_bytes() == 2 << 30


def test_the_limits_of_a_version_1_control_group_are_read(roots: tuple[Path, Path]):
    proc, cgroup = roots
    write(proc / "self/cgroup", "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n")
    write(cgroup / "cpu/box/cpu.cfs_quota_us", "50000\n")
    write(cgroup / "cpu/box/cpu.cfs_period_us", "100000\n")
    write(cgroup / "memory/box/memory.limit_in_bytes", "9223372036854771712\n")
    write(cgroup / "memory/memory.limit_in_bytes", "1073741824\n")

    assert host.cgroup_cpus() == 0.5
    assert host.cgroup_memory_bytes() == 1 << 30


def test_a_machine_without_those_files_has_no_limits(roots: tuple[Path, Path]):
    assert host.cgroup_cpus() is None
    assert host.cgroup_memory_bytes() is None
    assert host.memory_available_bytes() is None
    assert host.usable_cores() == host.affinity_cores()


def test_a_share_of_less_than_a_core_is_one_thread(roots: tuple[Path, Path]):
    proc, cgroup = roots
    write(proc / "self/cgroup", "0::/\n")
    write(cgroup / "cpu.max", "20000 100000\n")

    assert host.usable_cores() == 1
    assert host.compute_threads() == 1


def test_a_child_hears_of_no_secret():
    environ = {"PATH": "/bin", "HOME": "/home/x", "COVEY_GITHUB_TOKEN": "t", "PYTHONPATH": "p"}

    child = child_environment(environ, threads=3)

    assert child["PATH"] == "/bin"
    assert child["PYTHONPATH"] == "p"
    assert child["OMP_NUM_THREADS"] == "3"
    assert not {"HOME", "COVEY_GITHUB_TOKEN"} & child.keys()


def measured(**changes: Any) -> dict[str, Any]:
    spread = {"median": 61.23, "min": 50.0, "max": 67.0, "n": 12, "threads": 1}
    both = {"one_thread": spread, "all_threads": {**spread, "median": 120.0}}
    return {
        "cpu_model": "EPYC",
        "cpu_flags": ["avx2"],
        "usable_cores": 2,
        "memory_total_bytes": 25_276_510_208,
        "engine": "torch 2.13.0",
        "accelerators": [],
        "matmul_fp32_gflops": both,
        "memory_copy_gb_s": both,
        **changes,
    }


def test_an_advert_says_what_was_measured():
    assert capabilities(measured(cgroup_memory_bytes=8 << 30), "cpu") == {
        "cpu_model": "EPYC",
        "cpu_flags": ["avx2"],
        "cores": 2,
        "memory_gb": 8.6,
        "matmul_gflops": 120.0,
        "matmul_gflops_one_thread": 61.2,
        "matmul_n": 12,
        "memory_gb_s": 120.0,
        "engine": "torch 2.13.0",
        "accelerators": [],
    }


def test_a_benchmark_renews_what_an_advert_says():
    found = [
        figure_of("matmul_fp32_all_threads_gflops", [90.0, 100.0, 130.0], is_higher_better=True),
        figure_of("batch_1_latency_ms", [5.0], is_higher_better=False),
    ]

    renewed = with_figures(measured(measured_at_us=1_000), found)

    said = capabilities(renewed, "cpu")
    assert (said["matmul_gflops"], said["matmul_n"], said["measured_at_us"]) == (100.0, 3, 1_000)
    assert said["matmul_gflops_one_thread"] == 61.2
    assert renewed["matmul_fp32_gflops"]["all_threads"]["max"] == 130.0
    assert (
        renewed["matmul_fp32_gflops"]["one_thread"]
        == measured()["matmul_fp32_gflops"]["one_thread"]
    )
    assert set(renewed) == set(measured()) | {"measured_at_us"}


def test_an_advert_stays_small_whatever_the_hardware_calls_itself():
    spread = {"median": 123_456.78, "min": 50.0, "max": 67.0, "n": 45, "threads": 1}
    figures = dict.fromkeys(
        ("matmul_fp32_gflops", "matmul_bf16_gflops", "memory_copy_gb_s"), spread
    )
    device = {"backend": "cuda" * 9, "memory_bytes": 80 << 30, **figures}
    many = [{**device, "name": f"{n} " + "加速器" * 500} for n in range(100)]
    large = measured(accelerators=many, cpu_model="é" * 900, cpu_flags=["avx512_bf16" * 9] * 90)

    said = capabilities(large, "cuda" * 4)

    assert said["accelerators"][0]["matmul_gflops"] == 123_456.8
    assert len(dagcbor.encode(said)) <= 2_048


def test_equal_accelerators_are_one_entry():
    device = {"backend": "cuda", "name": "H100", "memory_bytes": 80_000_000_000}

    assert capabilities(measured(accelerators=[device] * 8), "cpu")["accelerators"] == [
        {"backend": "cuda", "name": "H100", "memory_gb": 80.0, "count": 8}
    ]


def test_of_accelerators_an_advert_says_what_the_one_does_that_computes():
    spread = {"median": 51_286.04, "min": 50.0, "max": 67.0, "n": 45, "threads": 1}
    device = {"backend": "cuda", "name": "H100", "memory_bytes": 80_000_000_000}
    figures = dict.fromkeys(
        ("matmul_fp32_gflops", "matmul_bf16_gflops", "memory_copy_gb_s"), spread
    )
    known = measured(accelerators=[{**device, **figures}, device])

    (told,) = capabilities(known, "cuda")["accelerators"]

    assert told == {
        "backend": "cuda",
        "name": "H100",
        "memory_gb": 80.0,
        "count": 2,
        "matmul_gflops": 51_286.0,
        "matmul_bf16_gflops": 51_286.0,
        "matmul_n": 45,
        "memory_gb_s": 51_286.0,
    }
    assert "matmul_gflops" not in capabilities(known, "cpu")["accelerators"][0], "told to leave it"


def test_the_environment_fits_a_record():
    assert json.loads(json.dumps(environment()))["covey"]
    assert dagcbor.decode(dagcbor.encode(environment())) == environment()


def test_what_a_control_group_may_still_take_is_the_least_of_its_parents_files_aside(
    roots: tuple[Path, Path],
):
    proc, cgroup = roots
    write(proc / "self/cgroup", "0::/app/one\n")
    write(cgroup / "app/memory.max", "1000\n")
    write(cgroup / "app/memory.current", "700\n")
    write(cgroup / "app/memory.stat", "anon 600\ninactive_file 50\n")
    write(cgroup / "app/one/memory.max", "max\n")
    write(cgroup / "app/one/memory.current", "10\n")

    assert host.cgroup_available_bytes() == 350


def test_the_memory_of_a_process_that_is_gone_is_none(roots: tuple[Path, Path]):
    write(roots[0] / "7/statm", "100 3 2 1 0 5 0\n")

    assert host.resident_bytes(7) == 3 * os.sysconf("SC_PAGE_SIZE")
    assert host.resident_bytes(8) == 0
