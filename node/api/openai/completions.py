"""``POST /v1/completions``: texts continued as they are, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from node.api.openai import asked
from node.api.openai.front import Front
from node.api.openai.generation import Generation


def completions_routes(front: Front) -> list[Route]:
    """Return the route over one node."""
    generation = Generation(front, asked.completion, CompletionShape())
    return [Route("/v1/completions", generation.create, methods=["POST"])]


class CompletionShape:
    """Texts; in events, too, and under the same name."""

    prefix = "cmpl"
    whole = "text_completion"
    chunk = "text_completion"

    def choice(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole text."""
        return _choice(row["index"], row["text"], row["finish_reason"])

    def begun(self, index: int) -> None:
        """Nothing is said before the first text."""

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return more text."""
        return _choice(index, text)

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return why the text ends."""
        return _choice(index, "", reason)


def _choice(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
