"""The parameters of benchmarks as a person writes them (``name=value``) and as a job's input holds
them; each kind has a schema of its own, with defaults and bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from node.runner.kinds import BadInputError, kind_named
from protocols.benchmark import decode_figures, decode_parameters, encode_parameters
from protocols.errors import RemoteProtocolError

P = TypeVar("P", bound=msgspec.Struct)


def schema_of(kind: str) -> type[msgspec.Struct]:
    """Return the schema of a benchmark's parameters."""
    return cast("Any", kind_named(kind)).Parameters


def encode(items: Sequence[str], schema: type[msgspec.Struct]) -> bytes:
    """Return the input that ``name=value`` items make, with defaults for what is not named; raises
    ``BadInputError``.
    """
    values: dict[str, Any] = {}
    for item in filter(None, map(str.strip, items)):
        name, _, value = item.partition("=")
        if name not in schema.__struct_fields__:
            raise BadInputError(
                f"{name[:40]!r} is no parameter of this benchmark",
                hint=f"write name=value, a line each; it has {', '.join(schema.__struct_fields__)}",
            )
        values[name] = value.split(",") if "," in value else value
    return encode_values(values, schema)


def encode_values(values: dict[str, Any], schema: type[msgspec.Struct]) -> bytes:
    """Return the input that these parameters make; raises ``BadInputError``."""
    try:
        return encode_parameters(msgspec.convert(values, type=schema, strict=False))
    except msgspec.ValidationError as error:
        raise BadInputError(f"a parameter is not understood: {error}") from error


def decode(content: bytes, schema: type[P]) -> P:
    """Return the parameters of an input; raises ``BadInputError``."""
    try:
        return decode_parameters(content, schema)
    except RemoteProtocolError as error:
        raise BadInputError(f"the input holds no parameters: {error.message}") from error


def figure_rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a figure of an output; raises ``RemoteProtocolError``."""
    for index, figure in enumerate(decode_figures(output)):
        yield {"index": index, **msgspec.structs.asdict(figure)}


def no_array(_output: bytes) -> NoReturn:
    """Raise ``BadInputError``: figures are no array."""
    raise BadInputError("figures are no array", hint="write them to a .jsonl file")
