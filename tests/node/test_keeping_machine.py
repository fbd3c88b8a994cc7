from __future__ import annotations

from hypothesis import settings

from tests.support.dying import DyingMachine

TestKeeping = DyingMachine.TestCase
TestKeeping.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, derandomize=True
)
