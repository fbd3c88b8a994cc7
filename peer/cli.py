"""Scaffolding of both command lines: lazy command groups, ``--json``, one-line errors with a hint,
exit codes.

Exit status: 0 done, 1 failed, 2 misuse, which is what the command line alone shows to be wrong.
Results go to stdout, everything else to stderr; with ``--json`` an error is there one line of JSON,
``{"error": {"code", "message", "hint"}}``. Command modules import what is heavy inside their
functions, so that ``--help`` stays quick.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NoReturn, TypeVar, cast

import click

from peer.machine import error_of_machine
from protocols.errors import CoveyError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


WIDTH: Final = 160  # of a table that goes to a file or a program
LEAST_COLUMN: Final = 24  # of characters: less tells nothing
_ACTING: Final = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters of the second half, and what changes the direction of writing."""
USAGE: Final = "usage"
"""The code of misuse."""


class Misuse(click.UsageError):
    """Something on the command line that can't be, with a hint that is better than ``--help``."""

    def __init__(self, message: str, *, hint: str, ctx: click.Context | None = None) -> None:
        super().__init__(message, ctx)
        self.hint = hint


def unless_misused(read: Callable[[], T], ctx: click.Context | None) -> T:
    """Return what ``read`` makes of an argument; its error is one of the command line."""
    try:
        return read()
    except CoveyError as error:
        raise Misuse(error.message, hint=error.hint or "see --help", ctx=ctx) from error


class CidName(click.ParamType[str]):
    """The CID of a record or of what records name."""

    name = "cid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it; a CID has one written form."""
        from peer.cids import parse_cid

        return str(unless_misused(lambda: parse_cid(str(value)), ctx))


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named: ``commands`` maps a name to
    ``module:attribute``.
    """

    def __init__(
        self, *arguments: Any, lazy: Mapping[str, str] | None = None, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were declared."""
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        return getattr(importlib.import_module(module), attribute)


def json_option(command: F) -> F:
    """Add ``--json`` to a command, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(
        command
    )


class RoleList(click.ParamType[tuple[str, ...]]):
    """Roles of a member, with commas."""

    name = "roles"

    def convert(
        self,
        value: str | tuple[str, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        """Return the roles, each of which exists."""
        from protocols.membership import ROLES

        roles = value.split(",") if isinstance(value, str) else value
        named = tuple(role.strip() for role in roles if role.strip())
        for role in named:
            if role not in ROLES:
                self.fail(f"{role!r} is not a role; roles are {', '.join(ROLES)}", param, ctx)
        if not named:
            self.fail("name at least one role", param, ctx)
        return named


def emit(value: Any, as_json: bool, render: Callable[[Any], str]) -> None:
    """Print a result on stdout: as JSON, or as ``render`` writes it for a person."""
    text = _json(value) if as_json else render(value)
    if text:
        click.echo(text)


def _json(value: Any) -> str:
    """Return JSON in which nothing acts on a terminal: a peer's words may hold anything."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def note(message: str) -> None:
    """Tell the person something on stderr that is not the result."""
    click.echo(message, err=True)


def screen_width() -> int:
    """How many characters a line has: of the terminal, or of most of them."""
    return shutil.get_terminal_size(fallback=(WIDTH, 0)).columns


def table(
    rows: list[dict[str, Any]], columns: Mapping[str, str], *, empty: str, width: int | None = None
) -> str:
    """Lay ``rows`` out in aligned columns (``key → heading``); ``empty`` is what to say when there
    is none. With ``width``, the last column is cut where lines would be longer, and marked.
    """
    if not rows:
        return empty
    cells = [list(columns.values()), *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    if width is not None:
        last = max(width - sum(each + 2 for each in widths[:-1]), LEAST_COLUMN)
        cells = [[*line[:-1], _cut(line[-1], last)] for line in cells]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1].rstrip()}…"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(_cell(item) for item in cast("list[Any]", value)) or "-"
    return printable(str(value))


def listing(values: Mapping[str, Any], width: int = 18) -> str:
    """Lay out named values in lines; those inside of one are indented below it."""
    return "\n".join(_listed(values, width, ""))


def _listed(values: Mapping[str, Any], width: int, indent: str) -> Iterator[str]:
    for name, value in values.items():
        told = printable(str(name).replace("_", " "))
        inner = _named(value)
        if inner:
            yield f"{indent}{told}"
            yield from _listed(inner, width, indent + "  ")
        else:
            cell = "-" if inner is not None else _cell_of_list(value)
            yield f"{indent}{told:<{width}}{cell}".rstrip()


def _named(value: Any) -> dict[str, Any] | None:
    """Return what is listed below a name: a map, or a list of maps by their number."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    if isinstance(value, list) and any(isinstance(each, dict) for each in cast("list[Any]", value)):
        return {str(number): each for number, each in enumerate(cast("list[Any]", value), 1)}
    return None


def _cell_of_list(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, cast("list[Any]", value))) or "-"
    return _cell(value)


def printable(text: str) -> str:
    """Return ``text`` without what would act on a terminal: peers' words may hold anything."""
    return "".join(character for character in text if character.isprintable())


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command line and exit with its status; ``--debug`` anywhere shows the traceback of an
    error.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    tell = partial(_tell_json if _wants_json(arguments) else _tell_line, name)
    try:
        command.main(arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        tell(USAGE, " ".join(error.format_message().split()), _usage_hint(error))
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(1)
    except (CoveyError, OSError, BaseExceptionGroup) as raised:
        error = _first_cause(raised)
        if is_debug or error is None:
            raise
        tell(error.code, error.message, error.hint)
        sys.exit(1)
    sys.exit(0)


def _wants_json(arguments: list[str]) -> bool:
    """Whether errors are to be told in JSON: also those that keep options from being understood."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def _tell_line(name: str, _code: str, message: str, hint: str | None) -> None:
    note(f"{name}: {message}" + (f"\n  hint: {hint}" if hint else ""))


def _tell_json(_name: str, code: str, message: str, hint: str | None) -> None:
    note(json.dumps({"error": {"code": code, "message": message, "hint": hint}}))


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, Misuse):
        return error.hint
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path} --help" if context else None


def _first_cause(raised: BaseException) -> CoveyError | None:
    """Return the error in a nursery's group, or none when the group holds anything unexpected."""
    if isinstance(raised, BaseExceptionGroup):
        causes = [_first_cause(each) for each in cast("Any", raised).exceptions]
        return None if None in causes else causes[0]
    if isinstance(raised, OSError):
        return error_of_machine(raised)
    return raised if isinstance(raised, CoveyError) else None
