"""A kind whose engine breaks in the middle of a step when a job says so: ``noop`` otherwise."""

from __future__ import annotations

from node.runner.files import ModelFiles
from node.runner.kinds import Engine, EngineSettings, Event
from node.runner.kinds.noop import NEEDS as NEEDS, NoopEngine


class BreakingEngine(NoopEngine):
    """Breaks at a step that has a job with the text ``boom``."""

    def step(self) -> list[Event]:
        if any(b"boom" in content for content in self._jobs.values()):
            raise ZeroDivisionError("boom")
        return super().step()


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    return BreakingEngine()
