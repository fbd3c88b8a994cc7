"""The kind ``detect``: files in, out comes what kind of file each is, by its content alone.

Input is a job input of byte strings (see ``node.runner.items``). The model looks at the beginning
and the end of a file only, so of a larger file only the first and the last 4 KiB travel. Output is
a flat DAG-CBOR list with three elements an item: label, MIME type, and a 64-bit float that says how
sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cbor2

from node.manifest import only_packaged
from node.runner.comparison import compare_rows
from node.runner.items import InputCodec, listed
from node.runner.kinds import (
    NO_PARAMETERS,
    BadInputError,
    BadOutputError,
    Difference,
    Engine,
    EngineSettings,
    Items,
    Needs,
)
from node.runner.parameters import Parameter
from protocols.errors import RemoteProtocolError
from protocols.limits import DETECT_END_BYTES, MAX_DETECT_ITEMS, MAX_JOB_INPUT_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.backends.magika import MagikaModel
    from node.runner.files import ModelFiles

ITEM_TYPE: Final = bytes
IS_ARRAY: Final = False
EXAMPLE: Final = "detect --model magika *.bin"
PARAMETERS: Final[tuple[Parameter, ...]] = ()
TOLERANCES: Final = {"fp32": 0.02}  # what else is in the batch moves a score by .018 at most
READER: Final = None
COUNT_TOKENS: Final = None
MODEL_KINDS: Final = ("detect",)
PRECISIONS: Final = ("fp32",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("onnx", ("onnxruntime",))

CODEC: Final = InputCodec(
    ITEM_TYPE, PARAMETERS, MAX_DETECT_ITEMS, 2 * DETECT_END_BYTES, MAX_JOB_INPUT_BYTES
)
STEP_ITEMS: Final = 16  # 0.14 s on one core


class Detected(NamedTuple):
    """What a file is, and how sure that is: 0 to 1."""

    label: str
    mime: str
    score: float


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError``."""
    return CODEC.encode([_ends(item) for item in items], parameters)


def count(content: bytes) -> int:
    """Return how many files an input has."""
    return CODEC.count(content)


def decode_input(content: bytes) -> list[bytes]:
    """Return the files of an input; raises ``BadInputError``."""
    return CODEC.decode(content)[0]


def _ends(item: Any) -> Any:
    if not isinstance(item, bytes) or len(item) <= 2 * DETECT_END_BYTES:
        return item
    return item[:DETECT_END_BYTES] + item[-DETECT_END_BYTES:]


def decode_output(output: bytes) -> list[Detected]:
    """Return what each file is; raises ``RemoteProtocolError``."""
    try:
        told = listed(output, 3 * MAX_DETECT_ITEMS)
    except ValueError as error:
        raise RemoteProtocolError("an output of detect is not a DAG-CBOR list") from error
    return [_detected(told[place : place + 3]) for place in range(0, len(told), 3)]


def _detected(told: list[Any]) -> Detected:
    match told:
        case [str(label), str(mime), float(score)] if 0 <= score <= 1:
            return Detected(label, mime, score)
        case _:
            raise RemoteProtocolError("an output of detect holds no label, MIME type and score")


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output says what each file of an input is."""
    found, wanted = len(decode_output(output)), count(content)
    if found != wanted:
        raise RemoteProtocolError(f"an output of detect is about {found} files of {wanted}")


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a file: ``{"index", "label", "mime", "score"}``."""
    for index, found in enumerate(decode_output(output)):
        yield {"index": index, **found._asdict()}


def array(output: bytes) -> NDArray[np.float32]:
    """Raise ``BadInputError``: labels are not numbers."""
    raise BadInputError("the output of detect is text", hint="write it to a .jsonl file")


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the largest difference of a number, where all else is the same."""
    return compare_rows(rows(output), rows(other), tolerance)


# The node's side


def describe(source: ModelSource) -> Description:
    """Raise ``ModelError``: the model comes in a package."""
    raise only_packaged("detect", "magika")


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.backends.magika import load_magika
    from node.runner.turns_engine import TurnsEngine

    model = load_magika(files, settings)
    model.detect([b"#!/bin/sh\necho warm\n"])

    def begin(content: bytes) -> tuple[int, Generator[int, None, bytes]]:
        items = decode_input(content)
        return len(items), _steps(model, items)

    return TurnsEngine(model.execution, begin)


def _steps(model: MagikaModel, items: list[bytes]) -> Generator[int, None, bytes]:
    told: list[str | float] = []
    for first in range(0, len(items), STEP_ITEMS):
        found = model.detect(items[first : first + STEP_ITEMS])
        for index, each in enumerate(found, first):
            if not math.isfinite(each.score):
                raise BadOutputError(f"the score of item {index} is not finite", item=index)
            told += each
        yield first + len(found)
    return cbor2.dumps(told)
