"""What can be run: a file and a line in ``KINDS`` for each kind.

A kind's module has three sides. The submitter's (``ITEM_TYPE``, ``IS_ARRAY``, ``EXAMPLE``,
``PARAMETERS``, ``READER``, ``TOLERANCES``, ``encode_input``, ``count``, ``COUNT_TOKENS``,
``check``, ``rows``, ``array``, ``compare``) and the node's (``MODEL_KINDS``, ``PRECISIONS``,
``IS_ACCELERATED``, ``NEEDS``, ``describe``) are plain Python. The runner's (``load``) returns an
``Engine``; only there, and only when called, may it import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from protocols.errors import CoveyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.files import ModelFiles
    from node.runner.parameters import Parameter

KINDS: Final = {
    "bench.compute": "node.runner.kinds.bench_compute",
    "bench.memory": "node.runner.kinds.bench_memory",
    "bench.model": "node.runner.kinds.bench_model",
    "bench.network": "node.runner.kinds.bench_network",
    "bench.noop": "node.runner.kinds.noop",
    "classify": "node.runner.kinds.classify",
    "detect": "node.runner.kinds.detect",
    "embed": "node.runner.kinds.embed",
    "generate": "node.runner.kinds.generate",
    "pipeline": "node.runner.kinds.pipeline",
    "vad": "node.runner.kinds.vad",
}

Facts = dict[str, int | float | str]
Timings = dict[str, float]
"""In milliseconds; ``busy_ms`` is the time that the job itself kept the engine busy."""
Item = str | bytes | Sequence[Mapping[str, str]]
"""What a kind takes several of: a text, the content of a file, or the messages of a chat."""
Items = Sequence[Item]
NO_PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType({})
EXACT: Final[Mapping[str, float]] = MappingProxyType({})
"""The tolerances of a kind whose outputs are equal or are not."""


class BadInputError(CoveyError):
    """A job's input is not what its kind takes; running it anywhere else would fail too."""

    default_code = "bad-input"


def bad_item(item: int, what: str, *, hint: str | None = None, **details: Any) -> BadInputError:
    """Return the error about one item, with ``what`` behind its name; who knows where the item came
    from can name it so.
    """
    return BadInputError(f"item {item}{what}", hint=hint, item=item, what=what, **details)


class BadOutputError(CoveyError):
    """A model computed something that is no answer, such as NaN."""

    default_code = "bad-output"


@dataclass(frozen=True, slots=True)
class Needs:
    """What the runner of a kind imports, and the extra of covey that installs it."""

    extra: str
    modules: tuple[str, ...]

    def unmet(self) -> str | None:
        """Say what is not installed here; None when everything is. Nothing is imported."""
        missing = [name for name in self.modules if find_spec(name) is None]
        if not missing:
            return None
        return f"{', '.join(missing)} is not installed: pip install 'covey[{self.extra}]'"


TORCH: Final = Needs("worker", ("torch", "safetensors", "tokenizers"))


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to compute: the precision, the threads, the tokens of one batch, and the device."""

    precision: str
    threads: int
    batch_tokens: int
    device: str = "cpu"


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
    timings: Timings


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


class Part(Protocol):
    """One part of an output of texts: ``text`` continues that of item ``index``."""

    @property
    def index(self) -> int:
        """The item."""
        ...

    @property
    def text(self) -> str:
        """What it is continued by."""
        ...


class Reader(Protocol):
    """Reads one output while it comes into being."""

    def feed(self, body: bytes) -> Sequence[Part]:
        """Take in what came, however it is cut, and return the parts that it completes; raises
        ``RemoteProtocolError``.
        """
        ...


class Kind(Protocol):
    """What a kind's module offers, to submitters, to nodes and to runners."""

    @property
    def ITEM_TYPE(self) -> type[str] | type[bytes] | None:  # noqa: N802 - a constant of the module
        """Whether items are texts, one a line, or bytes, one a file; None where there are none."""
        ...

    @property
    def IS_ARRAY(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether its outputs are numbers, which ``array`` returns."""
        ...

    @property
    def EXAMPLE(self) -> str:  # noqa: N802 - a constant of the module
        """Arguments of ``covey run`` that show it at work."""
        ...

    @property
    def PARAMETERS(self) -> tuple[Parameter, ...]:  # noqa: N802 - a constant of the module
        """What a job may be told besides its items; see ``node.runner.parameters``."""
        ...

    @property
    def READER(self) -> Callable[[], Reader] | None:  # noqa: N802 - a constant of the module
        """Makes what reads an output that grows; None where outputs come whole."""
        ...

    @property
    def COUNT_TOKENS(self) -> Callable[[bytes], int] | None:  # noqa: N802 - a constant of the module
        """Counts the tokens that an input asks for, where the work grows with them and not with the
        items.
        """
        ...

    @property
    def MODEL_KINDS(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """The kinds of the models that this kind runs on: its own, if any are, and others."""
        ...

    @property
    def PRECISIONS(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """The precisions that its engine computes in."""
        ...

    @property
    def IS_ACCELERATED(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether its engine computes on an accelerator where there is one."""
        ...

    @property
    def NEEDS(self) -> Needs:  # noqa: N802 - a constant of the module
        """What must be installed to run it."""
        ...

    def describe(self, source: ModelSource) -> Description:
        """Say what makes the model of this kind in a folder; raises ``ModelError``."""
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
        """Return how many items an input has."""
        ...

    def check(self, output: bytes, content: bytes) -> None:
        """Raise ``RemoteProtocolError`` unless an output can be the answer to an input: whole, of
        as many rows, finite and no larger than was asked for. Cheap: it is done with every output,
        before it is accepted. Raises ``BadInputError`` for an input that is none.
        """
        ...

    def rows(self, output: bytes) -> Iterator[dict[str, Any]]:
        """Yield an output as JSON objects, one an item; raises ``RemoteProtocolError``."""
        ...

    def array(self, output: bytes) -> NDArray[np.float32]:
        """Return an output as an array, one row an item; raises ``RemoteProtocolError``, and
        ``BadInputError`` unless ``IS_ARRAY``.
        """
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
    return _module(KINDS[name])


@cache
def _module(name: str) -> Kind:
    return cast("Kind", import_module(name))


def is_accelerated(kind: str) -> bool:
    """Whether jobs of ``kind`` compute on an accelerator where there is one; of a kind that is not
    known here, they do not.
    """
    return kind in KINDS and kind_named(kind).IS_ACCELERATED


def runs_on(kind: str, model_kind: str) -> bool:
    """Whether jobs of ``kind`` run on models of ``model_kind``."""
    return kind == model_kind or (kind in KINDS and model_kind in kind_named(kind).MODEL_KINDS)
