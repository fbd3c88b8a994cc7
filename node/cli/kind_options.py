"""Options of the command line that belong to a kind, from its table of parameters."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import click

from node.cli.arguments import KindName
from node.errors import InputError
from node.runner.kinds import KINDS, BadInputError, kind_named
from node.runner.parameters import Parameter, checked
from peer.cli import Misuse

_KIND: Final = "covey.kind"


class KindCommand(click.Command):
    """A command that has, besides its own options, those of the kind that its arguments name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the kind first: which options there are depends on it, also for ``--help``."""
        if args and not args[0].startswith("-"):
            KindName().convert(args[0], None, ctx)
        ctx.meta[_KIND] = next((each for each in args if each in KINDS), None)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's options and those of its kind."""
        kind = ctx.meta.get(_KIND)
        table = kind_named(kind).PARAMETERS if kind else ()
        return [*super().get_params(ctx), *map(_option, table)]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and an example of the kind's own."""
        super().format_help_text(ctx, formatter)
        kind = ctx.meta.get(_KIND)
        formatter.write_paragraph()
        with formatter.indentation():
            if kind:
                formatter.write(f"  Of {kind}:  {ctx.command_path} {kind_named(kind).EXAMPLE}\n")
            else:
                formatter.write_text(f"Kinds: {', '.join(sorted(KINDS))}")


@contextmanager
def telling_misuse(kind: str) -> Generator[None]:
    """Have what is wrong with the command line, and not with a file, end the command as misuse:
    such an error names the ``parameter``.
    """
    try:
        yield
    except (BadInputError, InputError) as error:
        if "parameter" not in error.details:
            raise
        hint = error.hint or f"{click.get_current_context().command_path} {kind} --help"
        raise Misuse(error.message, hint=hint) from error


def check_parameters(kind: str, options: dict[str, Any]) -> None:
    """Raise ``BadInputError`` for a parameter that its kind does not take."""
    table = kind_named(kind).PARAMETERS
    named = {parameter.name for parameter in table}
    checked(table, {name: value for name, value in options.items() if name in named})


def given(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, or have a value of their own."""
    return {name: value for name, value in wanted.items() if value not in (None, ())}


def _option(parameter: Parameter) -> click.Option:
    """Bounds are not told to click: the kind checks them, for every way in."""
    is_list = parameter.type is tuple

    def split(_context: object, _option: object, value: Any) -> Any:
        if not is_list or not parameter.separator:
            return value
        return tuple(text.strip() for each in value for text in each.split(parameter.separator))

    name = parameter.name.replace("_", "-")
    is_flag = parameter.type is bool
    told = "" if parameter.default is None else f"  [default: {_shown(parameter)}]"
    return click.Option(
        [f"--{name}/--no-{name}" if is_flag else f"--{name}"],
        type=_type_of(parameter),
        multiple=is_list,
        is_flag=is_flag,
        default=None,
        callback=split,
        help=parameter.help + told,
    )


def _type_of(parameter: Parameter) -> Any:
    if parameter.choices:
        return click.Choice(parameter.choices)
    return str if parameter.type is tuple else parameter.type


def _shown(parameter: Parameter) -> str:
    default = parameter.default
    return ", ".join(default) if isinstance(default, tuple) else str(default)
