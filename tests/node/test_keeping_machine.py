from __future__ import annotations

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test  # pyright: ignore[reportUnknownVariableType]

from tests.support.dying import DyingMachine

RULES = {name for name in vars(DyingMachine) if name.startswith(("it_dies_", "a_copy_"))}
RUNS_MAX = 6  # one or two are enough; which, any change to the rules may change


def test_lives_that_end_anywhere_lose_nothing_and_leave_nothing_that_was_redacted() -> None:
    few = settings(max_examples=8, stateful_step_count=18, deadline=None, database=None)
    DyingMachine.deaths.clear()
    DyingMachine.healed = 0

    for number in range(RUNS_MAX):
        run_state_machine_as_test(seed(number)(DyingMachine), settings=few)
        if DyingMachine.deaths.keys() >= RULES and DyingMachine.healed:
            break

    assert DyingMachine.deaths.keys() >= RULES, "some rule's act never ended halfway"
    assert DyingMachine.healed
