"""A child that embeds without covey around it: the same torch module, no daemon, no runner, no
records.

Everything is tokenised at once and sorted by length, which no service can do, for it would have to
know all its inputs in advance.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from node.catalogue import CATALOGUE, locate
from node.runner.backends.torch_bert import TorchBert, load_encoder
from node.runner.files import ModelFiles
from node.runner.host import compute_threads
from node.runner.kinds import EngineSettings
from tests.bench.processes import serve

MODEL = CATALOGUE["all-minilm-l6-v2"]


def load() -> TorchBert:
    files = ModelFiles(Path(locate(MODEL)), MODEL.manifest)
    return load_encoder(files, EngineSettings("fp32", compute_threads(), 0))


def embed(encoder: TorchBert, texts: list[str], batch_tokens: int) -> dict[str, float]:
    """Embed in batches of like length that hold so many tokens; return the CPU time."""
    before = time.process_time()
    rows = sorted(encoder.tokenise(texts)[0], key=len)
    batch: list[list[int]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            encoder.encode(batch)
            batch = []
        batch.append(row)
    encoder.encode(batch)
    return {"cpu_s": time.process_time() - before}


def main() -> None:
    os.nice(10)  # as a runner
    encoder = load()
    encoder.encode(encoder.tokenise(["one text"])[0])
    serve(lambda **command: embed(encoder, **command), {"loaded": True})


if __name__ == "__main__":
    main()
