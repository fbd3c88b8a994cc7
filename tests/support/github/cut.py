"""Cut GitHub's OpenAPI description to the operations that the fake GitHub serves.

npm pack @octokit/openapi@23.0.2 && tar xzf octokit-openapi-23.0.2.tgz
python -m tests.support.github.cut package/generated/api.github.com.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVED = {
    "/user": ("get",),
    "/repos/{owner}/{repo}": ("get",),
    "/repos/{owner}/{repo}/issues": ("get", "post"),
    "/repos/{owner}/{repo}/issues/{issue_number}": ("get", "patch"),
    "/repos/{owner}/{repo}/labels": ("post",),
    "/repos/{owner}/{repo}/labels/{name}": ("get",),
    "/search/issues": ("get",),
}
PROSE = ("description", "summary", "externalDocs", "x-github", "x-octokit", "tags", "operationId")
DESCRIPTION = Path(__file__).with_name("openapi.json")


def main() -> None:
    """Write the part of the description named on the command line beside this file."""
    whole = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    part: dict[str, Any] = {
        "openapi": whole["openapi"],
        "info": whole["info"],
        "paths": {
            path: {method: _told(whole["paths"][path][method]) for method in methods}
            for path, methods in SERVED.items()
        },
        "components": {},
    }
    waiting = list(_references(part["paths"]))
    while waiting:
        _, _, kind, name = waiting.pop().split("/")
        kept = part["components"].setdefault(kind, {})
        if name not in kept:
            kept[name] = _told(whole["components"][kind][name])
            waiting += _references(kept[name])
    DESCRIPTION.write_text(json.dumps(part, indent=1, sort_keys=True) + "\n", "utf-8")


def _told(value: Any, *, is_names: bool = False) -> Any:
    """Return a value without its prose, unless the keys are names that GitHub chose."""
    if isinstance(value, list):
        return [_told(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: inner if key == "value" else _told(inner, is_names=key in ("properties", "examples"))
        for key, inner in value.items()
        if is_names or key not in PROSE
    }


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)


if __name__ == "__main__":
    main()
