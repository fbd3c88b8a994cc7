"""Configuration: a TOML file of sections, each option also an environment variable, checked against
a schema.

A schema is a frozen ``msgspec.Struct`` whose fields are options or sections (structs of options),
all with defaults. The option ``port`` of section ``[listen]`` is ``COVEY_LISTEN_PORT``; a list is
written with commas. The environment wins over the file, the file over the default. Every mistake is
named with its source, key and reason, all of them at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_origin, get_type_hints

import msgspec

from protocols.errors import CoveyError

C = TypeVar("C", bound=msgspec.Struct)

PREFIX = "COVEY"


class ConfigError(CoveyError):
    """The configuration has mistakes; the message lists each with its source and key."""

    default_code = "config"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a schema: where it stands, its type and its default."""

    section: str | None
    name: str
    type: Any
    default: Any

    @property
    def key(self) -> str:
        """The option's dotted name in the file."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "_".join(part.upper() for part in (PREFIX, self.section, self.name) if part)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A checked configuration, and for each key whether default, file or environment set it."""

    values: C
    sources: dict[str, str]


def options(schema: type[msgspec.Struct], section: str | None = None) -> Iterator[Option]:
    """Yield every option of ``schema``, sections flattened."""
    hints = get_type_hints(schema, include_extras=True)
    for field in msgspec.structs.fields(schema):
        kind = hints[field.name]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from options(kind, field.name)
        else:
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory() if callable(field.default_factory) else None
            yield Option(section, field.name, kind, default)


def load(schema: type[C], file: Path, environ: Mapping[str, str]) -> Loaded[C]:
    """Return the configuration from ``file`` (which may be missing) and ``environ``; raise
    ``ConfigError`` with every mistake.
    """
    table = _read(file)
    mistakes = list(_unknown(schema, table, file))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in options(schema):
        try:
            value, source = _resolve(option, table, file, environ)
        except ConfigError as error:
            mistakes.append(error.message)
            continue
        sources[option.key] = source
        target = values.setdefault(option.section, {}) if option.section else values
        target[option.name] = value
    if mistakes:
        raise ConfigError(
            "; ".join(mistakes), hint="`config show` lists every option with its value and variable"
        )
    return Loaded(msgspec.convert(values, type=schema), sources)


def describe(schema: type[C], file: Path, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row an option: key, value, source and environment variable."""
    loaded = load(schema, file, environ)
    values = msgspec.to_builtins(loaded.values)
    return [
        {
            "key": option.key,
            "value": values[option.section][option.name] if option.section else values[option.name],
            "source": loaded.sources[option.key],
            "variable": option.variable,
        }
        for option in options(schema)
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} is not valid TOML: {error}",
            hint="mend that line, or move the file away: every option has a default",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}",
            hint="it is a file that the daemon's user may read, or it is not there",
        ) from error


def _unknown(schema: type[msgspec.Struct], table: dict[str, Any], file: Path) -> Iterator[str]:
    known = {option.key for option in options(schema)}
    for name, value in table.items():
        section = cast("dict[str, Any]", value) if isinstance(value, dict) else None
        keys = [name] if section is None else [f"{name}.{inner}" for inner in section]
        for key in keys:
            if key not in known:
                yield f"{file}: {key} is not an option"


def _resolve(
    option: Option, table: dict[str, Any], file: Path, environ: Mapping[str, str]
) -> tuple[Any, str]:
    if option.variable in environ:
        return _convert(
            option, environ[option.variable], option.variable, is_text=True
        ), option.variable
    section = table.get(option.section, {}) if option.section else table
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: {option.section} must be a section")
    if option.name in section:
        return _convert(option, section[option.name], f"{file}: {option.key}", is_text=False), str(
            file
        )
    return option.default, "default"


def _convert(option: Option, value: Any, where: str, *, is_text: bool) -> Any:
    if is_text and get_origin(option.type) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, type=option.type, strict=not is_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
