"""``GET /v1/models``: what the mesh offers right now, this node's own models among them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from node.api.openai.errors import ApiError, bad_request
from node.api.openai.front import Front
from node.errors import NoWorkerError
from node.job import JobSpec
from node.mesh_models import offered, summary
from peer.directory import Directory
from protocols.advert import ModelOffer
from protocols.errors import CoveyError


class ModelsApi:
    """The handlers over the adverts of workers."""

    def __init__(self, front: Front) -> None:
        self._directory = front.directory

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/v1/models", self.list), Route("/v1/models/{model:path}", self.show)]

    async def list(self, _request: Request) -> JSONResponse:
        """Every model, by name."""
        models = [_row(name, offers) for name, offers in sorted(offered(self._directory).items())]
        return JSONResponse({"object": "list", "data": models})

    async def show(self, request: Request) -> JSONResponse:
        """One model."""
        name = request.path_params["model"]
        offers = offered(self._directory).get(name)
        if offers is None:
            raise why_not_there(self._directory, name)
        return JSONResponse(_row(name, offers))


def why_not_there(directory: Directory, model: str) -> ApiError:
    """Return the error for a model that nobody offers: 503 if that may change by itself."""
    workers = [entry.advert for entry in directory.workers()]
    if not workers:
        reason = "no worker of the mesh is known to this node now"
    elif any(advert and advert.hardware is None for advert in workers):
        reason = "a worker still measures its hardware, and offers its models in a few seconds"
    else:
        return ApiError(
            404,
            f"no worker offers the model {model[:256]!r}: GET /v1/models lists those there are",
            code="model_not_found",
            param="model",
        )
    return ApiError(503, reason, code="no-worker", param="model", headers={"Retry-After": "5"})


def why_nobody(directory: Directory, spec: JobSpec, error: NoWorkerError) -> CoveyError:
    """Tell a model that is not there, or is for something else, from workers that are busy."""
    offers = offered(directory).get(spec.model)
    if offers is None:
        return why_not_there(directory, spec.model)
    kinds = {offer.kind for offer in offers}
    if spec.kind not in kinds:
        told = ", ".join(sorted(kinds))
        return bad_request(
            f"{spec.model} is a model for {told}, not for {spec.kind}", param="model"
        )
    return error


def _row(name: str, offers: list[ModelOffer]) -> dict[str, Any]:
    """Return OpenAI's object. Adverts do not say when a model was made: ``created`` is 0."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "covey",
        **summary(offers),
    }
