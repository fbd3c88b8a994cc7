"""A chat as the one text that its model was trained on, by the template in the model's own files.

A template is a program by whoever made the model. It runs in Jinja's immutable sandbox, sees the
messages and nothing else, and may neither multiply texts nor pad them: a few characters of either
could fill the memory. One that still takes too much, or does not end, ends with its runner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.manifest import ModelError
from node.runner.kinds import BadInputError
from protocols.limits import MAX_GENERATE_INPUT_BYTES

_FAULTS: Final = (RecursionError, TypeError, ValueError, ArithmeticError, LookupError)
MAX_RENDERED_CHARS: Final = 2 * MAX_GENERATE_INPUT_BYTES

Message = Mapping[str, str]


class ChatTemplate:
    """A compiled template; raises ``ModelError`` when it is none."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self._tokens = tokens
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters = {name: environment.filters[name] for name in _FILTERS}
        names: Any = environment.globals
        names.clear()
        names.update(range=range_of, raise_exception=_refuse, namespace=jinja2.utils.Namespace)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise _broken(error) from error

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text of a chat, up to where the assistant's next words come.

        Raises ``BadInputError`` for messages that the template refuses, ``ModelError`` where it
        fails otherwise.
        """
        values = {"messages": list(messages), "add_generation_prompt": True, **self._tokens}
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(values):
                size += len(part)
                if size > MAX_RENDERED_CHARS:
                    raise ModelError(
                        f"the chat template wrote more than {MAX_RENDERED_CHARS} characters",
                        code="model-template",
                    )
                parts.append(part)
        except (jinja2.TemplateError, *_FAULTS) as error:
            raise _broken(error) from error
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, without what makes much of little."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(side, (int, float)) for side in (left, right)) or operator == "**":
            raise SecurityError(f"a chat template may not use {operator} here")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("a chat template may not use str.format")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _FILLERS:
            return False
        return super().is_safe_attribute(obj, attr, value)


_FILLERS: Final = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "translate"))
_FILTERS: Final = (
    *("capitalize", "count", "d", "default", "dictsort", "first", "int", "items", "join", "last"),
    *("length", "list", "lower", "map", "reject", "rejectattr", "replace", "reverse", "select"),
    *("selectattr", "string", "title", "tojson", "trim", "unique", "upper"),
)


def range_of(*bounds: int) -> range:
    """As ``range``, over no more numbers than a chat may have messages in plenty."""
    numbers = range(*bounds)
    if len(numbers) > _MAX_RANGE:
        raise SecurityError(f"a chat template may not count to {len(numbers)}")
    return numbers


_MAX_RANGE: Final = 10_000


def _refuse(message: str) -> NoReturn:
    raise BadInputError(f"the model's chat template refuses the messages: {message[:300]}")


def _broken(error: Exception) -> ModelError:
    return ModelError(
        f"the model's chat template fails: {type(error).__name__}: {str(error)[:300]}",
        code="model-template",
    )
