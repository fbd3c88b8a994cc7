"""``POST /v1/chat/completions``: the next message of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from node.api.openai import asked
from node.api.openai.front import Front
from node.api.openai.generation import Generation


def chat_routes(front: Front) -> list[Route]:
    """Return the route over one node."""
    generation = Generation(front, asked.chat, ChatShape())
    return [Route("/v1/chat/completions", generation.create, methods=["POST"])]


class ChatShape:
    """Messages, and what is added to them."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def choice(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole message."""
        return {
            "index": row["index"],
            "message": {"role": "assistant", "content": row["text"], "refusal": None},
            "logprobs": None,
            "finish_reason": row["finish_reason"],
        }

    def begun(self, index: int) -> dict[str, Any]:
        """Return whose message it is."""
        return _delta(index, {"role": "assistant", "content": ""})

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return more of the message."""
        return _delta(index, {"content": text})

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return why the message ends."""
        return _delta(index, {}, reason)


def _delta(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
