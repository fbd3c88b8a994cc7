"""What can be run: a file and a line in ``KINDS`` for each kind.

A kind's module has two sides. The submitter's (``encode_input``, ``rows``, ``array``) is plain
Python. The runner's (``load``) returns an ``Engine``; only there, and only when called, may it
import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from protocols.errors import CoveyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.runner.files import ModelFiles

KINDS: Final = {
    "bench.compute": "node.runner.kinds.bench_compute",
    "bench.memory": "node.runner.kinds.bench_memory",
    "bench.model": "node.runner.kinds.bench_model",
    "bench.network": "node.runner.kinds.bench_network",
    "bench.noop": "node.runner.kinds.noop",
    "embed": "node.runner.kinds.embed",
}

Facts = dict[str, int | float | str]


class BadInputError(CoveyError):
    """A job's input is not what its kind takes; running it anywhere else would fail too."""

    default_code = "bad-input"


class BadOutputError(CoveyError):
    """A model computed something that is no answer, such as NaN."""

    default_code = "bad-output"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to compute: the precision, the threads, and the tokens of one batch."""

    precision: str
    threads: int
    batch_tokens: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """So many of a job's items are done."""

    job: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A job's output, how it was computed, and what that took."""

    job: int
    output: bytes
    execution: Facts
    timings: Facts


@dataclass(frozen=True, slots=True)
class Broken:
    """A job failed; the others go on."""

    job: int
    error: Exception


Event = Advanced | Finished | Broken


class Engine(Protocol):
    """A loaded model that computes several jobs at once, one step after the other."""

    @property
    def execution(self) -> Facts:
        """How this engine computes, the same for every job."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether a step has something to do."""
        ...

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        ...

    def cancel(self, job: int) -> None:
        """Drop a job between steps; does nothing when there is no such job."""
        ...

    def step(self) -> list[Event]:
        """Compute for a fraction of a second and say what came of it."""
        ...


class Kind(Protocol):
    """What a kind's module offers, to submitters and to runners."""

    def encode_input(self, items: Sequence[str]) -> bytes:
        """Return a job's input; raises ``BadInputError``."""
        ...

    def rows(self, output: bytes) -> Iterator[dict[str, Any]]:
        """Yield an output as JSON objects, one an item; raises ``RemoteProtocolError``."""
        ...

    def array(self, output: bytes) -> NDArray[np.float32]:
        """Return an output as an array, one row an item; raises ``RemoteProtocolError``."""
        ...

    def load(self, files: ModelFiles, settings: EngineSettings) -> Engine:
        """Return an engine that holds the model of ``files``; raises ``ModelError``."""
        ...


def kind_named(name: str) -> Kind:
    """Return the module of a kind; raises ``BadInputError`` when there is none of that name."""
    if name not in KINDS:
        raise BadInputError(f"there is no kind {name!r}", hint=f"kinds: {', '.join(sorted(KINDS))}")
    return cast("Kind", import_module(KINDS[name]))
