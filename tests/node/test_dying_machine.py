from __future__ import annotations

from hypothesis import settings

from tests.support.dying import DyingMachine

TestDying = DyingMachine.TestCase
TestDying.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, derandomize=True
)
