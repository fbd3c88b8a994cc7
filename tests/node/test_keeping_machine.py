from __future__ import annotations

from hypothesis import settings

from tests.support.keeping import KeepingMachine

TestKeeping = KeepingMachine.TestCase
TestKeeping.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, derandomize=True
)
