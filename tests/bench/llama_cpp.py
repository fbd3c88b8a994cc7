"""A child that writes text with llama.cpp, on one thread and from the same GGUF file.

It imports nothing of covey: it may run in another environment, which has ``llama-cpp-python``. Its
buffers for AMX are off, for they crashed (0.3.36, gcc 12, Sapphire Rapids); other CPUs have none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

CONTEXT = 512


def main() -> None:
    llama_cpp: Any = import_module("llama_cpp")
    os.nice(10)  # as a runner
    default = llama_cpp.llama_model_default_params
    llama_cpp.llama_cpp.llama_model_default_params = lambda: _without_extras(default())
    model: Any = llama_cpp.Llama(
        sys.argv[1], n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, verbose=False, seed=0
    )
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(write(model, **json.loads(line))), flush=True)


def _without_extras(parameters: Any) -> Any:
    parameters.use_extra_bufts = False
    return parameters


def write(model: Any, prompt: str, tokens: int) -> dict[str, float]:
    """Continue a prompt; return what the tokens after the first one took."""
    ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
    began = cpu_began = 0.0
    for place, _ in enumerate(model.generate(ids, temp=0.0, repeat_penalty=1.0, reset=True), 1):
        if place == 1:
            began, cpu_began = time.perf_counter(), time.process_time()
        if place == tokens:
            break
    return {
        "tokens": tokens - 1,
        "cpu_s": time.process_time() - cpu_began,
        "wall_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()
