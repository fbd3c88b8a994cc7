"""The kind ``pipeline``: texts in, out comes what a Transformers pipeline says about each.

What a model can do is decided by its architecture, from a list of tasks (see
``node.runner.backends.pipeline_config``); nothing is downloaded and no code of a model runs. Input
is a job input of texts (see ``node.runner.items``). Output is a flat DAG-CBOR list with one text an
item: JSON, as the pipeline of that task has it.
"""

from __future__ import annotations

import ctypes.util
import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from node.runner.backends.pipeline_config import AUTO, TASKS
from node.runner.batcher import Batcher, window
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
from protocols.limits import (
    MAX_JOB_INPUT_BYTES,
    MAX_JOB_OUTPUT_BYTES,
    MAX_LABELS,
    MAX_PIPELINE_ITEM_BYTES,
    MAX_PIPELINE_ITEMS,
    MAX_PIPELINE_RESULT_BYTES,
    MAX_PIPELINE_RESULT_DEPTH,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.backends.transformers_pipeline import TransformersModel
    from node.runner.files import ModelFiles

ITEM_TYPE: Final = str
IS_ARRAY: Final = False
EXAMPLE: Final = "pipeline --model my-classifier --task text-classification --input reviews.txt"
PARAMETERS: Final = (
    Parameter(
        "task",
        str,
        "What to do; auto is what the model's architecture is for.",
        default=AUTO,
        choices=(AUTO, *TASKS),
    ),
    Parameter(
        "labels",
        tuple,
        "What texts may be about, with commas, for zero-shot-classification.",
        least=1,
        most=MAX_LABELS,
        separator=",",
    ),
    Parameter(
        "top_k",
        int,
        "How many answers to give, for fill-mask and text-classification.",
        default=5,
        least=1,
        most=100,
    ),
)
TOLERANCES: Final = {"fp32": 1e-3}
READER: Final = None
COUNT_TOKENS: Final = None
MODEL_KINDS: Final = ("pipeline",)
PRECISIONS: Final = ("fp32",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("transformers", ("torch", "safetensors", "tokenizers", "transformers"))

CODEC: Final = InputCodec(
    ITEM_TYPE, PARAMETERS, MAX_PIPELINE_ITEMS, MAX_PIPELINE_ITEM_BYTES, MAX_JOB_INPUT_BYTES
)


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError``."""
    return CODEC.encode(items, parameters)


def count(content: bytes) -> int:
    """Return how many texts an input has."""
    return CODEC.count(content)


def decode_input(content: bytes) -> tuple[list[str], dict[str, Any]]:
    """Return texts and parameters of an input; raises ``BadInputError``."""
    return CODEC.decode(content)


def decode_output(output: bytes) -> list[Any]:
    """Return what is said about each text; raises ``RemoteProtocolError``, also for numbers that
    are not finite and for values deeper than ``MAX_PIPELINE_RESULT_DEPTH``.
    """
    return list(_results(output))


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output says something about each text of an input."""
    wanted, found = count(content), sum(1 for _ in _results(output))
    if found != wanted:
        raise RemoteProtocolError(f"an output of pipeline is about {found} texts of {wanted}")


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a text: ``{"index", "result"}``."""
    for index, told in enumerate(_results(output)):
        yield {"index": index, "result": told}


def _results(output: bytes) -> Iterator[Any]:
    """Yield what is said about each text; only one of them need be held at a time."""
    try:
        for told in listed(output, MAX_PIPELINE_ITEMS):
            yield _result(told)
    except (ValueError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"an output of pipeline is not a DAG-CBOR list of JSON: {str(error)[:100]}"
        ) from error


def _result(told: Any) -> Any:
    if not isinstance(told, str):
        raise TypeError("a result is no text")
    if len(told) > MAX_PIPELINE_RESULT_BYTES:
        raise ValueError(f"a result of more than {MAX_PIPELINE_RESULT_BYTES} characters")
    value = json.loads(told, parse_constant=_no_number, parse_float=_finite)
    level: list[Any] = [value]
    for _ in range(MAX_PIPELINE_RESULT_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return value
    raise ValueError(f"a result that is deeper than {MAX_PIPELINE_RESULT_DEPTH} levels")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _finite(digits: str) -> float:
    """JSON has no infinity, and ``1e999`` is one."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


def array(output: bytes) -> NDArray[np.float32]:
    """Raise ``BadInputError``: what pipelines say is no array."""
    raise BadInputError("the output of pipeline is JSON", hint="write it to a .jsonl file")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the largest difference of a number, where all else is the same."""
    return compare_rows(rows(output), rows(other), tolerance)


# The node's side


def describe(source: ModelSource) -> Description:
    """Say what makes the model in a folder; raises ``ModelError``."""
    from node.runner.backends.pipeline_config import describe_pipeline

    return describe_pipeline(source)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.turns_engine import TurnsEngine

    with _no_search_for_libraries():
        from node.runner.backends.transformers_pipeline import load_model

        model = load_model(files, settings)

    def begin(content: bytes) -> tuple[int, Generator[int, None, bytes]]:
        texts, told = decode_input(content)
        model.check(texts, told)
        return len(texts), _steps(model, texts, told, settings.batch_tokens)

    return TurnsEngine(model.execution, begin)


@contextmanager
def _no_search_for_libraries() -> Generator[None]:
    """Have nobody look for a system library meanwhile: what Transformers' HTTP client imports does,
    by running a compiler on a temporary file, and a confined runner may do neither. Not to find one
    is an answer that it can live with.
    """
    searching = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        yield
    finally:
        ctypes.util.find_library = searching


def _steps(
    model: TransformersModel, texts: list[str], told: dict[str, Any], batch_tokens: int
) -> Generator[int, None, bytes]:
    said: dict[int, str] = {}
    size_bytes = first = 0
    while first < len(texts):
        near, _ = window(texts, first)
        batcher = Batcher(batch_tokens)
        batcher.add(0, enumerate(model.weigh(near, told), first))
        while batch := batcher.take():
            places = [row.item for row in batch]
            results = model.answer([texts[place] for place in places], told)
            for place, result in zip(places, results, strict=True):
                said[place] = _json(result, place)
                size_bytes += len(said[place])
            _check_size(size_bytes)
            yield len(said)
        first += len(near)
    return cbor2.dumps([said[place] for place in range(len(texts))])


def _check_size(size_bytes: int) -> None:
    """JSON here is ASCII, and a text of it needs five bytes more in the output."""
    limit = MAX_JOB_OUTPUT_BYTES - 5 * MAX_PIPELINE_ITEMS
    if size_bytes > limit:
        raise BadInputError(f"the output is over {limit} bytes", hint="submit it as several jobs")


def _json(result: Any, index: int) -> str:
    try:
        return json.dumps(result, allow_nan=False, default=lambda number: number.item())
    except ValueError as error:
        raise BadOutputError(f"the result of item {index} is not finite", item=index) from error
