"""EXAMPLES (1,000) generated record sets, each arriving at two holders in any order, with repeats
and losses: both answer alike once they have met. ``make soak`` runs it; SEED replays a run.
"""

from __future__ import annotations

import os
import random
import subprocess
import time

from hypothesis import HealthCheck, given, seed, settings, strategies as st

from tests.support.record_sets import check, deliveries, record_sets


def run(chosen: int, examples: int) -> int:
    """Try so many sets; return how many bundles they held. Hypothesis prints what fails, shrunk."""
    bundles_seen = 0

    @seed(chosen)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.data())
    def any_order(data: st.DataObject) -> None:
        nonlocal bundles_seen
        bundles = data.draw(record_sets())
        bundles_seen += len(bundles)
        one, other = (data.draw(deliveries(len(bundles))) for _ in range(2))
        check(bundles, one, other)

    any_order()
    return bundles_seen


def main() -> None:
    """Run, and say what was tried and how to try it again."""
    examples = int(os.environ.get("EXAMPLES", "1000"))
    chosen = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    again = f"SEED={chosen} EXAMPLES={examples} .venv/bin/python -m tests.soak.any_order"
    print(f"any order: {again} at commit {commit or 'unknown'}", flush=True)
    began = time.monotonic()
    bundles = run(chosen, examples)
    print(
        f"{examples} record sets of {bundles} bundles: one state each "
        f"({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
