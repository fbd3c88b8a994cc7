"""What benchmarks share as kinds of jobs: they take parameters and no items, and answer figures.

Each has a table of parameters, as every kind has, and the schema that its inputs are checked
against. Only what differs from its default travels; so defaults can never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

import msgspec

from node.manifest import ModelError
from node.runner.kinds import EXACT, NO_PARAMETERS, BadInputError, Difference, Items, kind_named
from node.runner.parameters import checked
from protocols.benchmark import decode_figures, decode_parameters, encode_parameters
from protocols.errors import RemoteProtocolError

if TYPE_CHECKING:
    from node.runner.benchmarker import Series
    from node.runner.kinds import Engine, EngineSettings

P = TypeVar("P", bound=msgspec.Struct)

ITEM_TYPE: Final = None
IS_ARRAY: Final = False
READER: Final = None
COUNT_TOKENS: Final = None
TOLERANCES: Final = EXACT


def schema_of(kind: str) -> type[msgspec.Struct]:
    """Return the schema of a benchmark's parameters."""
    return cast("Any", kind_named(kind)).Parameters


def encode(kind: str, items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return the input of a benchmark of ``kind``; raises ``BadInputError``."""
    table = kind_named(kind).PARAMETERS
    if items:
        options = " ".join(f"--{each.name.replace('_', '-')}" for each in table)
        raise BadInputError(f"{kind} takes no items", hint=f"it can be told {options}")
    given = {name: _texts(value) for name, value in parameters.items()}
    return encode_values(checked(table, given), schema_of(kind))


def encode_values(values: Mapping[str, Any], schema: type[msgspec.Struct]) -> bytes:
    """Return the input that these parameters make; raises ``BadInputError``."""
    try:
        return encode_parameters(msgspec.convert(dict(values), type=schema, strict=False))
    except msgspec.ValidationError as error:
        raise BadInputError(f"a parameter is not understood: {error}") from error


def decode(content: bytes, schema: type[P]) -> P:
    """Return the parameters of an input; raises ``BadInputError``."""
    try:
        return decode_parameters(content, schema)
    except RemoteProtocolError as error:
        raise BadInputError(f"the input holds no parameters: {error.message}") from error


def told(asked: msgspec.Struct) -> dict[str, Any]:
    """Return all parameters as a record states them, defaults too."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.structs.asdict(asked)))
    return values


def count(_content: bytes) -> int:
    """Return 1: a benchmark is one thing, however much it measures."""
    return 1


def check(output: bytes, _content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output is figures."""
    decode_figures(output)


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a figure of an output; raises ``RemoteProtocolError``."""
    for index, figure in enumerate(decode_figures(output)):
        yield {"index": index, **msgspec.structs.asdict(figure)}


def array(_output: bytes) -> NoReturn:
    """Raise ``BadInputError``: figures are no array."""
    raise BadInputError("the output of a benchmark is no array", hint="write them to a .jsonl file")


def compare(_output: bytes, _other: bytes, _tolerance: float) -> Difference:
    """Return that figures of two machines cannot be compared as two outputs of one input."""
    return Difference(None, False, "machines differ")


def describe(_source: object) -> NoReturn:
    """Raise ``ModelError``: a benchmark has no models of its own."""
    raise ModelError(
        "a benchmark has no models of its own",
        code="model-kind",
        hint="add the model for the kind that it is for, and measure it: covey bench run",
    )


def engine_of(
    schema: type[P], plan: Callable[[P, EngineSettings], list[Series]], settings: EngineSettings
) -> Engine:
    """Return an engine that measures what ``plan`` makes of its parameters; raises ``ModelError``
    where torch is not installed.
    """
    from node.runner.backends import torch_bench
    from node.runner.benchmarker import Benchmarker

    def planned(content: bytes) -> list[Series]:
        return plan(decode(content, schema), settings)

    return Benchmarker(planned, torch_bench.execution(settings))


def _texts(value: Any) -> Any:
    """Return a list of numbers as the texts that it is on the command line."""
    if isinstance(value, (list, tuple)):
        return tuple(map(str, cast("list[object]", value)))
    return value
