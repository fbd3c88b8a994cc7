"""GitHub's own description of its interface, and whether a request or an answer keeps to it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from openapi_schema_validator import OAS30Validator


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """GitHub sends null for what is nullable; OpenAPI 3.0 wants it among the values of an enum too,
    where the description leaves it out.
    """
    if schema.get("nullable") and None not in schema.get("enum", (None,)):
        return {**schema, "enum": [*schema["enum"], None]}
    return schema


DESCRIPTION = Path(__file__).with_name("openapi.json").read_text("utf-8")
SPEC = json.loads(DESCRIPTION, object_hook=_with_null)

# What the description says and what GitHub does are not the same in these points.
UNLISTED_STATUSES = {401, 403, 429, 502}  # any operation may answer these; few of them say so
EXAMPLES_LACK: dict[str, Any] = {"language": None}  # required of a repository, not in the example
BOTH_OF_ONE_OF = "/user"  # the example of a user is valid as private and as public one: "oneOf"


def resolved(value: Any) -> Any:
    """Follow references until there is none."""
    while isinstance(value, dict) and "$ref" in value:
        found: Any = SPEC
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        value = found
    return value


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    arguments: dict[str, str]

    @cached_property
    def _spec(self) -> dict[str, Any]:
        return SPEC["paths"][self.path][self.method.lower()]

    def example(self, status: int = 200) -> Any:
        """Return a fresh copy of GitHub's own example of an answer."""
        examples = resolved(self._spec["responses"][str(status)])["content"]["application/json"]
        first = resolved(next(iter(examples["examples"].values())))["value"]
        return json.loads(json.dumps(first))

    def request_faults(self, query: dict[str, str], body: Any) -> list[str]:
        """Say what is wrong with a request."""
        parameters = {
            each["name"]: each for each in map(resolved, self._spec.get("parameters", ()))
        }
        faults = [f"query {name} is not described" for name in query if name not in parameters]
        for name in query.keys() & parameters.keys():
            faults += _faults(parameters[name]["schema"], _typed(query[name], parameters[name]))
        content = resolved(self._spec.get("requestBody"))
        if content is None:
            return faults + (["a body is not described"] if body is not None else [])
        if body is None:
            return faults + (["the body is missing"] if content.get("required") else [])
        return faults + _faults(content["content"]["application/json"]["schema"], body)

    def answer_faults(self, status: int, body: Any) -> list[str]:
        """Say what is wrong with an answer of this fake's own."""
        described = resolved(self._spec["responses"].get(str(status)))
        if described is None:
            return [] if status in UNLISTED_STATUSES else [f"status {status} is not described"]
        schema = described["content"]["application/json"]["schema"]
        if self.path == BOTH_OF_ONE_OF and "oneOf" in schema:
            schema = {"anyOf": schema["oneOf"]}
        return _faults(schema, body)


def operation(method: str, path: str) -> Operation | None:
    """Return the operation that a request asks for, if the description has it."""
    for template, methods in SPEC["paths"].items():
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
        found = re.fullmatch(pattern, path)
        if found and method.lower() in methods:
            arguments = {name: unquote(value) for name, value in found.groupdict().items()}
            return Operation(method, template, arguments)
    return None


def _typed(text: str, parameter: dict[str, Any]) -> Any:
    is_number = parameter["schema"].get("type") == "integer" and text.isdecimal()
    return int(text) if is_number else text


def _faults(schema: dict[str, Any], value: Any) -> list[str]:
    validator = OAS30Validator({**schema, "components": SPEC["components"]})
    return [
        f"{'/'.join(map(str, error.path)) or 'it'}: {error.message[:200]}"
        for error in validator.iter_errors(value)
    ]
