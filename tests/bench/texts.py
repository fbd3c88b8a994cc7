"""English text for embeddings: stretches of this repository's licence, 5 to 96 words long."""

from __future__ import annotations

import random

from tests.bench.processes import ROOT

MIN_WORDS, MAX_WORDS = 5, 96


def sentences(count: int, seed: int) -> list[str]:
    """Return ``count`` texts of mixed lengths, the same for the same seed."""
    rng = random.Random(seed)
    words = (ROOT / "LICENSE").read_text().split()
    texts: list[str] = []
    for _ in range(count):
        length = rng.randint(MIN_WORDS, MAX_WORDS)
        start = rng.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts
