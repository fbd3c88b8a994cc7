"""One benchmark that was carried out, as its records state it and as commands show it.

The worker states it as ``bench.measured`` and the submitter as ``bench.result``: the same figures,
each signed by who says so, and joined to the job's own records. Unlike other outputs figures are
stated openly, for that is what they are measured for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from protocols.benchmark import Figure
from protocols.cid import CID
from protocols.errors import RemoteProtocolError

MEASURED: Final = "bench.measured"
RESULT: Final = "bench.result"
VERDICT: Final = "bench.verdict"

NOISY: Final = 0.10
"""The spread from which a figure is called noisy. Of five seconds each on two shared cores, steady
figures had 1 to 9 percent, and those that others disturbed 13 to 73.
"""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of either record. Later fields are appended; unknown ones are ignored."""

    kind: str
    model: str
    precision: str
    worker: str
    submitter: str
    job_id: bytes
    parameters: dict[str, Any]
    figures: tuple[Figure, ...]
    execution: dict[str, str | int | float | bool] = {}
    machine: dict[str, Any] = {}
    """What the worker's advert said of its hardware; empty in the worker's own record, which names
    its hardware by CID.
    """
    software: str = ""
    hardware: CID | None = None
    """The record of it that the worker's advert named."""

    def attributes(self) -> dict[str, Any]:
        """Return what a record holds."""
        return msgspec.to_builtins(self, builtin_types=(bytes, CID))

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Statement:
        """Return what a record states; raises ``RemoteProtocolError``."""
        try:
            return msgspec.convert(dict(attributes), type=cls, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(f"a record states no benchmark: {error}") from error

    def told(self) -> dict[str, Any]:
        """Return it as values that JSON can hold, with stable keys."""
        return {
            "kind": self.kind,
            "model": self.model,
            "precision": self.precision,
            "worker": self.worker,
            "submitter": self.submitter,
            "job_id": self.job_id.hex(),
            "parameters": self.parameters,
            "figures": [told(figure) for figure in self.figures],
            "is_noisy": any(is_noisy(figure) for figure in self.figures),
            "execution": self.execution,
            "machine": self.machine,
            "software": self.software,
            "hardware": str(self.hardware) if self.hardware else None,
        }


def told(figure: Figure) -> dict[str, Any]:
    """Return a figure as values that JSON can hold."""
    return {
        **msgspec.structs.asdict(figure),
        "spread_percent": round(figure.spread * 100, 2),
        "is_noisy": is_noisy(figure),
    }


def is_noisy(figure: Figure) -> bool:
    """Whether the samples lie so far apart that the median says little."""
    return figure.spread > NOISY


def figures_of(row: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of what ``told`` returned, by name."""
    fields = Figure.__struct_fields__
    found = (Figure(*(figure[name] for name in fields)) for figure in row["figures"])
    return {figure.name: figure for figure in found}
