"""The kind ``bench.noop``: every text comes back as it went in.

Nothing is computed and no weights are loaded, but the job takes the whole way of any other: offer,
lease, input, a runner process, commitment, records, result. So it checks that a peer can be worked
with (``covey run bench.noop --model noop``), and what it costs is what covey costs. Input and
output are both the input encoding of ``embed``: a DAG-CBOR list of text strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from node.manifest import only_packaged
from node.runner.kinds import (
    EXACT,
    NO_PARAMETERS,
    BadInputError,
    Difference,
    Engine,
    EngineSettings,
    Event,
    Facts,
    Finished,
    Items,
    Needs,
    Timings,
)
from node.runner.kinds.embed import count as count_texts, decode_input, encode_input as encode_texts
from node.runner.parameters import Parameter
from protocols.errors import RemoteProtocolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.files import ModelFiles

ITEM_TYPE: Final = str
IS_ARRAY: Final = False
EXAMPLE: Final = "bench.noop --model noop --input FILE"
PARAMETERS: Final[tuple[Parameter, ...]] = ()
MODEL_KINDS: Final = ("bench.noop",)
PRECISIONS: Final = ("none",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("worker", ())
READER: Final = None
COUNT_TOKENS: Final = None
TOLERANCES: Final = EXACT


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError`` for what no worker would take."""
    return encode_texts(items, parameters)


def count(content: bytes) -> int:
    """Return how many texts an input has."""
    return count_texts(content)


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output is the input."""
    count(content)
    if output != content:
        raise RemoteProtocolError("an output of bench.noop is not its input")


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a text: ``{"index", "text"}``."""
    try:
        texts = decode_input(output)
    except BadInputError as error:
        raise RemoteProtocolError(f"an output of bench.noop is no input: {error}") from error
    for index, text in enumerate(texts):
        yield {"index": index, "text": text}


def array(output: bytes) -> NDArray[np.float32]:
    """Raise ``BadInputError``: texts are not numbers."""
    raise BadInputError("the output of bench.noop is text", hint="write it to a .jsonl file")


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return 0 for equal bytes, and else 1."""
    amount = float(output != other)
    return Difference(amount, amount <= tolerance, "the texts are not the same" if amount else "")


# The node's side


def describe(source: ModelSource) -> Description:
    """Raise ``ModelError``: the model comes with covey."""
    raise only_packaged("bench.noop", "noop")


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds nothing."""
    return NoopEngine()


class NoopEngine:
    """Gives every job its input back at the next step."""

    def __init__(self) -> None:
        self.execution: Facts = {"engine": "noop"}
        self._jobs: dict[int, bytes] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._jobs)

    def start(self, job: int, content: bytes) -> None:
        """Take in a job; raises ``BadInputError``."""
        decode_input(content)
        self._jobs[job] = content

    def cancel(self, job: int) -> None:
        """Drop a job; does nothing when there is no such job."""
        self._jobs.pop(job, None)

    def step(self) -> list[Event]:
        """Finish every job."""
        jobs, self._jobs = self._jobs, {}
        return [
            Finished(job, content, self.execution, _IN_NO_TIME) for job, content in jobs.items()
        ]


_IN_NO_TIME: Timings = {"queue_ms": 0.0, "run_ms": 0.0, "busy_ms": 0.0, "cpu_ms": 0.0}
