"""Figures ``generate_ratio_c1`` and ``generate_ratio_c8``: SmolLM2 in four bits beside llama.cpp's
one stream, tokens a second of one thread's CPU time.

``LLAMA_CPP_PYTHON`` names a Python that has ``llama-cpp-python``; this one is taken where it has it
itself. Without either, the baseline is our own loop in fp32 times ``RECORDED``, what llama.cpp was
once measured to be against such a loop, and the table says so.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from node.catalogue import CATALOGUE, locate
from tests.bench.figure import Figure, figure
from tests.bench.processes import Child

ROUNDS = 3
TOKENS = 96
PROMPTS = [
    f"<|im_start|>user\nTell me about the number {number}.<|im_end|>\n<|im_start|>assistant\n"
    for number in range(1, 9)
]
RECORDED = 72.5 / 14.6
"""llama.cpp's tokens a second ÷ a plain fp32 loop's, both on one thread of one machine."""
VARIABLE = "LLAMA_CPP_PYTHON"


def figures() -> Iterator[Figure]:
    """Measure one stream and eight, and the baseline before each."""
    with _baseline() as (name, baseline), _child("tests.bench.writing", "int4") as ours:
        _rate(ours, 1)
        baseline()
        ones: list[float] = []
        eights: list[float] = []
        base: list[float] = []
        for _ in range(ROUNDS):
            base.append(baseline())
            ones.append(_rate(ours, 1))
            eights.append(_rate(ours, 8))
    for number, rates in ((1, ones), (8, eights)):
        yield figure(
            f"generate_ratio_c{number}",
            "× tokens/CPU-s",
            [rate / other for rate, other in zip(rates, base, strict=True)],
            n=ROUNDS * number * TOKENS,
            baseline=f"{name} ({median(base):.1f} tokens/CPU-s)",
            baseline_rounds=[1.0],
        )


def _rate(writer: Child, streams: int) -> float:
    """Return the tokens that so many streams got for a second of CPU time, together."""
    done = writer.ask(prompts=PROMPTS[:streams], tokens=TOKENS)
    return done["tokens"] / done["cpu_s"]


@contextmanager
def _baseline() -> Iterator[tuple[str, Callable[[], float]]]:
    python = os.environ.get(VARIABLE) or (
        sys.executable if importlib.util.find_spec("llama_cpp") else None
    )
    if python is None:
        with _child("tests.bench.writing", "fp32") as plain:
            name = f"our fp32 loop × {RECORDED:.2f}, for llama.cpp"
            yield name, lambda: _rate(plain, 1) * RECORDED
        return
    packaged = CATALOGUE["smollm2"]
    file = os.fspath(locate(packaged) / str(packaged.gguf))
    with _child("tests.bench.llama_cpp", file, python=python) as other:
        yield "llama.cpp, one stream", lambda: _other_rate(other)


def _other_rate(other: Child) -> float:
    done = other.ask(prompt=PROMPTS[0], tokens=TOKENS)
    return done["tokens"] / done["cpu_s"]


@contextmanager
def _child(module: str, argument: str, python: str = sys.executable) -> Iterator[Child]:
    started = Child(module, arguments=(argument,), python=python)
    try:
        yield started
    finally:
        started.close()
