"""The application: the routes, what their errors become, and who may reach them."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from node.api.access import Access
from node.api.openai.chat import chat_routes
from node.api.openai.completions import completions_routes
from node.api.openai.embeddings import EmbeddingsApi
from node.api.openai.errors import (
    UNFORESEEN,
    ApiError,
    answer_error,
    answer_http_error,
    answer_os_error,
    response_of,
)
from node.api.openai.front import Front
from node.api.openai.models import ModelsApi
from protocols.errors import CoveyError

log = logging.getLogger(__name__)

HANDLERS: Final[dict[Any, Any]] = {
    CoveyError: answer_error,
    HTTPException: answer_http_error,
    OSError: answer_os_error,
}


def openai_app(front: Front, access: Access, mcp: ASGIApp | None = None) -> ASGIApp:
    """Return the application over one node, for TCP, with ``mcp`` behind the same guard."""

    async def answer_unforeseen(_request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error)
        await front.report(error)
        told = ApiError(UNFORESEEN, "this node failed at the request", code="node-fault")
        return response_of(told)

    routes = [
        *ModelsApi(front).routes(),
        *EmbeddingsApi(front).routes(),
        *chat_routes(front),
        *completions_routes(front),
    ]
    if mcp is not None:
        routes.append(Route("/mcp", mcp, methods=["POST"]))
    handlers = {**HANDLERS, Exception: answer_unforeseen}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # to a location that a client's own header names
    return access.guard(app)
