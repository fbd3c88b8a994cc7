"""What a job of a kind may be told besides its items: a table in the kind's module, and one place
that checks values against it.

A kind declares ``PARAMETERS``, a tuple of ``Parameter``. The command line offers each as an option
(``max_tokens`` is ``--max-tokens``), Python takes it as a keyword, and the kind's ``encode_input``
carries it as part of the input, so that it is committed to like the items. Only values that differ
from their default travel: a worker that does not know a newer parameter yet still runs the jobs
that do not use it. Defaults can therefore never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from msgspec import inspect

from node.runner.kinds import BadInputError
from protocols import dagcbor
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_PARAMETER_CHARS, MAX_PARAMETERS_BYTES

Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. ``type`` is ``int``, ``float``, ``str``, ``bool``, or ``tuple`` for texts.

    ``least`` and ``most`` bound a number, the characters of a text, or how many texts there are;
    both are inclusive, and a number must have them. Without a ``default`` a parameter that is not
    given is absent. ``separator`` stands between texts in one option of the command line. On models
    of the kinds ``needed_on`` it must be given.
    """

    name: str
    type: type[Any]
    help: str
    default: Value | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    separator: str = ""
    needed_on: tuple[str, ...] = ()


def table_of(schema: type[msgspec.Struct], texts: Mapping[str, str]) -> tuple[Parameter, ...]:
    """Return the rows of a schema's fields, with the ``texts`` for people, in their order. Types,
    defaults and bounds stand in the schema alone; numbers in a tuple have commas between.
    """
    info = cast("inspect.StructType", inspect.type_info(schema))
    fields = {field.name: field for field in info.fields}
    return tuple(_row(fields[name], text) for name, text in texts.items())


def _row(field: inspect.Field, text: str) -> Parameter:
    name, default = field.name, field.default
    match field.type:
        case inspect.IntType(ge=least, le=most):
            return Parameter(name, int, text, default, least, most)
        case inspect.FloatType(ge=least, le=most):
            return Parameter(name, float, text, default, least, most)
        case inspect.VarTupleType(inspect.IntType(), min_length=least, max_length=most):
            told = tuple(map(str, default))
            return Parameter(name, tuple, text, told, least or 0, most, separator=",")
        case inspect.VarTupleType(min_length=least, max_length=most):
            return Parameter(name, tuple, text, default, least or 0, most)
        case _:
            raise AssertionError("there are numbers, and tuples of numbers or texts")


def checked(table: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Value]:
    """Return the value of each parameter that has one: as given, or by default.

    Raises ``BadInputError``, which names the parameter, for one that is not in ``table``, and for a
    value of another type or out of bounds; NaN and infinity always are.
    """
    by_name = {parameter.name: parameter for parameter in table}
    for name in given:
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise BadInputError(
                f"there is no parameter {str(name)[:64]!r} here",
                hint=f"parameters of this kind: {known}",
                parameter=name,
            )
    values = {name: _checked(by_name[name], value) for name, value in given.items()}
    defaults = {p.name: p.default for p in table if p.default is not None}
    return {**defaults, **values}


def pack(table: Sequence[Parameter], given: Mapping[str, Any]) -> bytes:
    """Return checked parameters in their one form: the DAG-CBOR map of what is not default."""
    defaults = {p.name: p.default for p in table}
    values = checked(table, given)
    told = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != defaults[name]
    }
    try:
        return dagcbor.encode(told, max_bytes=MAX_PARAMETERS_BYTES)
    except LocalProtocolError as error:
        raise BadInputError(f"the parameters are too much or no text: {error.message}") from error


def unpack(table: Sequence[Parameter], content: bytes) -> dict[str, Value]:
    """Return the parameters in ``content``, defaults included; raises ``BadInputError`` unless
    ``pack`` could have made it.
    """
    try:
        told = dagcbor.decode(content, max_bytes=MAX_PARAMETERS_BYTES)
    except RemoteProtocolError as error:
        raise BadInputError("the parameters are not a DAG-CBOR map") from error
    if not isinstance(told, dict):
        raise BadInputError("the parameters are not a DAG-CBOR map")
    values = checked(table, cast("dict[str, Any]", told))
    if pack(table, values) != content:
        raise BadInputError("the parameters are not in their one form")
    return values


def _checked(parameter: Parameter, value: Any) -> Value:
    if parameter.type is tuple:
        return _texts(parameter, value)
    if parameter.type is float and type(value) is int:
        value = _as_float(value)
    if type(value) is not parameter.type:
        raise _wrong(parameter, value)
    if parameter.type is str:
        _check_bounds(parameter, len(value), value)
        _check_text(parameter, value)
    elif parameter.type is not bool:
        _check_bounds(parameter, value, value)
        value += type(value)()  # minus zero becomes zero, which has one form
    return cast("Value", value)


def _texts(parameter: Parameter, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(parameter, value)
    texts = cast("Sequence[Any]", value)
    _check_bounds(parameter, len(texts), f"{len(texts)} texts")
    for text in texts:
        if type(text) is not str:
            raise _wrong(parameter, text)
        _check_text(parameter, text)
    return tuple(texts)


def _check_bounds(parameter: Parameter, size: float, value: Any) -> None:
    """NaN is within no bounds: the comparisons are written so that it fails them."""
    is_above = parameter.least is None or size >= parameter.least
    is_below = parameter.most is None or size <= parameter.most
    if not (is_above and is_below):
        raise _wrong(parameter, value)


def _check_text(parameter: Parameter, text: str) -> None:
    is_choice = not parameter.choices or text in parameter.choices
    if len(text) > MAX_PARAMETER_CHARS or not is_choice:
        raise _wrong(parameter, text)


def _as_float(value: int) -> float | int:
    try:
        return float(value)
    except OverflowError:
        return value


def _wrong(parameter: Parameter, value: Any) -> BadInputError:
    return BadInputError(
        f"{parameter.name} is {_wanted(parameter)}, not {str(value)[:64]!r}",
        parameter=parameter.name,
    )


def _wanted(parameter: Parameter) -> str:
    noun = {int: "a whole number", float: "a number", bool: "true or false", tuple: "texts"}.get(
        parameter.type, "a text"
    )
    if parameter.choices:
        return f"one of {', '.join(parameter.choices)}"
    if parameter.least is None or parameter.most is None:
        return noun
    unit = {str: " characters", tuple: " of them"}.get(parameter.type, "")
    return f"{noun}, {parameter.least:g} to {parameter.most:g}{unit}"
