"""Measuring this machine, for real."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from node import hardware
from node.hardware import capabilities, measure
from node.runner.measure import accelerator_figures
from protocols import dagcbor

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from node.runner.measure import main
main()
"""


def figures(measured: dict[str, Any]) -> list[dict[str, float]]:
    both = (measured["matmul_fp32_gflops"], measured["memory_copy_gb_s"])
    return [spread for figure in both for spread in figure.values()]


def is_a_spread(spread: dict[str, float]) -> bool:
    return 0 < spread["min"] <= spread["median"] <= spread["max"] < math.inf and spread["n"] >= 3


async def test_hardware_is_measured_in_another_process_and_fits_a_record():
    measured = await measure()

    assert len(figures(measured)) == 4
    assert all(is_a_spread(spread) for spread in figures(measured))
    assert measured["engine"].startswith("torch ")
    assert dagcbor.decode(dagcbor.encode(measured)) == measured
    assert len(dagcbor.encode(capabilities(measured, "cpu"))) <= 2_048


def test_without_torch_numpy_measures_and_says_so():
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], stdout=subprocess.PIPE, check=True
    )
    measured = json.loads(finished.stdout)

    assert measured["engine"].startswith("numpy ")
    assert measured["torch"] is None
    assert all(is_a_spread(spread) for spread in figures(measured))
    assert "all_threads" not in measured["memory_copy_gb_s"]
    assert capabilities(measured, "cpu")["memory_gb_s"] > 0


def test_what_an_accelerator_does_is_measured_as_wide_as_it_is_fast_for() -> None:
    figures = accelerator_figures("cpu", lambda: None)  # torch's own name for no accelerator

    assert list(figures) == ["matmul_fp32_gflops", "matmul_bf16_gflops", "memory_copy_gb_s"]
    assert all(is_a_spread(spread) for spread in figures.values())


def test_what_hardware_calls_itself_is_one_line_of_plain_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = "Sneaky\x1b[2J\u202e  CPU\n v9\x00"
    monkeypatch.setattr(hardware, "cpu_model", lambda: raw)

    named = hardware.unmeasured()["cpu_model"]
    checked = hardware.checked({"accelerators": [{"name": raw}]})

    assert named == checked["accelerators"][0]["name"] == "Sneaky [2J CPU v9"
