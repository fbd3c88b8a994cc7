"""A child that writes text with a language model without covey around it: the runner's engine, no
daemon and no records.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from node.models import ModelStore
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings, Finished, generate
from tests.bench.processes import serve

MODEL = "smollm2"
NEVER = 0
"""Continuations end when they are long enough, so that every round computes the same."""


def main() -> None:
    os.nice(10)  # as a runner
    with tempfile.TemporaryDirectory() as root:
        model = ModelStore(Path(root)).add(MODEL)
        engine: Any = generate.load(
            ModelFiles(model.path, model.manifest), EngineSettings(sys.argv[1], 1, NEVER)
        )
    engine._text.ends = frozenset()
    serve(lambda **command: write(engine, **command), engine.execution)


def write(engine: Any, prompts: list[str], tokens: int) -> dict[str, float]:
    """Continue all prompts at once; return what the tokens after each first one took."""
    for job, prompt in enumerate(prompts):
        engine.start(job, generate.encode_input([prompt], {"max_tokens": tokens}))
    while engine._reading or len(engine._writing) < len(prompts):
        engine.step()
    written = sum(each.written for each in engine._writing)
    began, cpu_began = time.perf_counter(), time.process_time()
    while engine.is_busy:
        ended = [event for event in engine.step() if isinstance(event, Finished)]
        assert all(event.execution["new_tokens"] == tokens for event in ended)
    return {
        "tokens": len(prompts) * tokens - written,
        "cpu_s": time.process_time() - cpu_began,
        "wall_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()
