"""What can be run: a file and a line in ``KINDS`` for each kind.

A kind's module has two sides. The submitter's (``ITEM_TYPE``, ``PARAMETERS``, ``TOLERANCES``,
``encode_input``, ``count``, ``rows``, ``array``, ``compare``) is plain Python. The runner's
(``load``) returns an ``Engine``; only there, and only when called, may it import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from protocols.errors import CoveyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.runner.files import ModelFiles
    from node.runner.parameters import Parameter

KINDS: Final = {
    "bench.noop": "node.runner.kinds.noop",
    "embed": "node.runner.kinds.embed",
    "generate": "node.runner.kinds.generate",
}

Facts = dict[str, int | float | str]
Item = str | bytes | Sequence[Mapping[str, str]]
"""What a kind takes several of: a text, the content of a file, or the messages of a chat."""
Items = Sequence[Item]
NO_PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType({})
EXACT: Final[Mapping[str, float]] = MappingProxyType({})
"""The tolerances of a kind whose outputs are equal or are not."""


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
class Emitted:
    """The next bytes of a job's output, known before the job is done: they are the output's
    beginning, come in order, and are never taken back.
    """

    job: int
    piece: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a job: the output, or what is left of it after the pieces that were emitted, how
    it was computed, and what that took.
    """

    job: int
    output: bytes
    execution: Facts
    timings: Facts


@dataclass(frozen=True, slots=True)
class Broken:
    """A job failed; the others go on."""

    job: int
    error: Exception


Event = Advanced | Emitted | Finished | Broken


class Difference(NamedTuple):
    """How far two outputs of one input are apart."""

    amount: float | None
    """In the kind's own measure, 0 for not at all; None when they can't be compared."""
    is_within: bool
    """Whether that is within the tolerance."""
    told: str = ""
    """Where they part, for a person."""


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

    @property
    def ITEM_TYPE(self) -> type[str] | type[bytes]:  # noqa: N802 - a constant of the module
        """Whether items are texts, one a line, or bytes, one a file."""
        ...

    @property
    def PARAMETERS(self) -> tuple[Parameter, ...]:  # noqa: N802 - a constant of the module
        """What a job may be told besides its items; see ``node.runner.parameters``."""
        ...

    @property
    def TOLERANCES(self) -> Mapping[str, float]:  # noqa: N802 - a constant of the module
        """By precision, how far two outputs of one input may be apart where the model declares
        nothing; 0 for a precision that is missing. One above 0 holds across engines and machines.
        """
        ...

    def encode_input(self, items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
        """Return a job's input: items of ``ITEM_TYPE`` and the parameters that were given; raises
        ``BadInputError``.
        """
        ...

    def count(self, content: bytes) -> int:
        """Return how many items an input has, for estimates: what the work grows with besides the
        input's size.
        """
        ...

    def rows(self, output: bytes) -> Iterator[dict[str, Any]]:
        """Yield an output as JSON objects, one an item; raises ``RemoteProtocolError``."""
        ...

    def array(self, output: bytes) -> NDArray[np.float32]:
        """Return an output as an array, one row an item; raises ``RemoteProtocolError``."""
        ...

    def compare(self, output: bytes, other: bytes, tolerance: float) -> Difference:
        """Return how far two outputs of one input are apart; pure, and may take its time. Raises
        ``RemoteProtocolError`` when one of them is none.
        """
        ...

    def load(self, files: ModelFiles, settings: EngineSettings) -> Engine:
        """Return an engine that holds the model of ``files``; raises ``ModelError``."""
        ...


def kind_named(name: str) -> Kind:
    """Return the module of a kind; raises ``BadInputError`` when there is none of that name."""
    if name not in KINDS:
        raise BadInputError(f"there is no kind {name!r}", hint=f"kinds: {', '.join(sorted(KINDS))}")
    return cast("Kind", import_module(KINDS[name]))
