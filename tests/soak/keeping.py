"""EXAMPLES (200) lives of one peer of STEPS (40) steps each: records are written, received,
acknowledged, dropped, redacted, damaged, healed and read again after restarts, and after kills in
the middle of erasing, healing and hearing of tombstones, in any order, with an index on the disk.
``make soak`` runs it; SEED replays a run, and Hypothesis prints what fails, shrunk.
"""

from __future__ import annotations

import random
import time
from typing import ClassVar

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test  # pyright: ignore[reportUnknownVariableType]

from tests.soak.replay import replayable, variables
from tests.support.dying import DyingMachine


class Kept(DyingMachine):
    """With an index in a file: redacted bytes must leave it too."""

    has_index_file: ClassVar[bool] = True
    lives: ClassVar[int] = 0

    def teardown(self) -> None:
        super().teardown()
        Kept.lives += 1


def main() -> None:
    """Run, and say what was tried."""
    values = variables(EXAMPLES=200, STEPS=40, SEED=random.SystemRandom().randrange(1 << 32))
    tried = settings(
        max_examples=values["EXAMPLES"],
        stateful_step_count=values["STEPS"],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    began = time.monotonic()
    with replayable("keeping", values):
        run_state_machine_as_test(seed(values["SEED"])(Kept), settings=tried)
    took_s = time.monotonic() - began
    print(f"{Kept.lives} lives: nothing lost, nothing redacted left ({took_s:.0f} s)")


if __name__ == "__main__":
    main()
