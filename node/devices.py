"""Which device runners compute on: what the configuration says, or the accelerator that torch found
when the hardware was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

AUTO: Final = "auto"
CPU: Final = "cpu"


class ComputeDevice:
    """``wanted`` is a name of torch's (``cpu``, ``cuda``, also for ROCm, ``xpu``, ``mps``), or
    ``auto``: the first accelerator there is, and the CPU until the hardware is measured.
    """

    def __init__(self, wanted: str = AUTO) -> None:
        self._wanted = wanted
        self._found = CPU

    @property
    def name(self) -> str:
        """The device that a runner which starts now computes on."""
        return self._found if self._wanted == AUTO else self._wanted

    def found(self, accelerators: Sequence[Mapping[str, Any]]) -> None:
        """The hardware was measured: these are there, the first of a kind each."""
        self._found = str(accelerators[0]["backend"]) if accelerators else CPU
