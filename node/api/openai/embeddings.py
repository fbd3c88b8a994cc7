"""``POST /v1/embeddings``: one job of the kind ``embed`` for one request, whoever does it."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from node.api.openai.errors import ApiError, bad_request
from node.api.openai.front import Front, aside, read_body
from node.api.openai.models import why_nobody
from node.api.openai.texts import texts_of
from node.errors import NoWorkerError
from node.job import JobResult, JobSpec
from node.mesh_models import offered
from node.runner.kinds import embed
from protocols.limits import MAX_NAME_CHARS

KIND: Final = "embed"
PIECE_FLOATS: Final = 16_384  # written as JSON in about a millisecond


class EmbeddingsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends. ``user`` is accepted for its sake, and goes nowhere. ``truncate`` is not
    OpenAI's: what is longer than the model reads is an error there, too.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    input: msgspec.Raw
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    truncate: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """A request that was understood: ``content`` is its texts in the kind's encoding."""

    model: str
    content: bytes
    items: int
    is_base64: bool
    dimensions: int | None
    may_cut: bool


class EmbeddingsApi:
    """The handler over one node."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/v1/embeddings", self.create, methods=["POST"])]

    async def create(self, request: Request) -> Response:
        """Embed texts."""
        front = self._front
        front.check_may_submit()
        with front.room.request() as held:
            body = await read_body(request, held)
            wanted = await aside(len(body), lambda: understood(body))
            self._check_dimensions(wanted)
            result = await self._embedded(request, wanted)
            cut = _check_cut(wanted, result)
            size = len(result.output)
            _, dimension, packed = await aside(size, lambda: embed.unpack(result.output))
        pieces = written(wanted, tokens_of(result), dimension, packed)
        headers = {"X-Request-Id": result.job_id.hex(), "X-Truncated-Texts": str(cut)}
        return StreamingResponse(_Stepwise(pieces), media_type="application/json", headers=headers)

    async def _embedded(self, request: Request, wanted: Wanted) -> JobResult:
        spec = JobSpec(
            job_id=self._front.new_job_id(),
            kind=KIND,
            model=wanted.model,
            input=wanted.content,
            items=wanted.items,
            budget_ms=self._front.budget_ms,
        )
        try:
            return await self._front.run(request, spec)
        except NoWorkerError as error:
            raise why_nobody(self._front.directory, spec, error) from error

    def _check_dimensions(self, wanted: Wanted) -> None:
        """A model's vectors are as long as they are: another length would be made up."""
        offers = offered(self._front.directory).get(wanted.model, ()) if wanted.dimensions else ()
        lengths = {offer.dimension for offer in offers if offer.kind == KIND}
        if lengths and lengths != {wanted.dimensions}:
            have = ", ".join(map(str, sorted(lengths)))
            raise bad_request(
                f"{wanted.model} has {have} dimensions, not {wanted.dimensions}: leave it out",
                param="dimensions",
            )


def understood(body: bytes) -> Wanted:
    """Return what a body asks for; raises ``ApiError``, and ``BadInputError`` for texts that no
    worker would take.
    """
    try:
        asked = msgspec.json.decode(body, type=EmbeddingsBody)
        texts = texts_of(asked.input, "input")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the request is not understood: {error}") from error
    return Wanted(
        model=asked.model,
        content=embed.encode_input(texts),
        items=len(texts),
        is_base64=asked.encoding_format == "base64",
        dimensions=asked.dimensions,
        may_cut=asked.truncate,
    )


def _check_cut(wanted: Wanted, result: JobResult) -> int:
    """Return how many texts the worker says it cut to the model's length; raises ``ApiError`` where
    none was to be. Only who has the model's tokenizer knows, so it is known that late.
    """
    told = result.execution.get("truncated")
    cut = told if type(told) is int and told > 0 else 0
    if cut and not wanted.may_cut:
        raise ApiError(
            400,
            f"{cut} of {wanted.items} texts are longer than {wanted.model} reads:"
            ' split them, or send "truncate": true to have their beginnings embedded',
            code="context-length",
            param="input",
        )
    return cut


def tokens_of(result: JobResult) -> int | None:
    """Return how many tokens the worker computed; None where it does not count them."""
    counted = result.execution.get("tokens")
    return counted if type(counted) is int and counted >= 0 else None


def written(wanted: Wanted, tokens: int | None, dimension: int, packed: bytes) -> Iterator[bytes]:
    """Yield the answer in pieces, for as JSON it is several times as large as the vectors."""
    usage = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"object": "list", "model": wanted.model, "usage": usage}
    yield msgspec.json.encode(head)[:-1] + b',"data":['
    encode = _as_base64 if wanted.is_base64 else _as_floats
    step = max(1, PIECE_FLOATS // dimension)
    width = 4 * dimension
    for first in range(0, wanted.items, step):
        rows = [
            {
                "object": "embedding",
                "index": index,
                "embedding": encode(packed[index * width : (index + 1) * width]),
            }
            for index in range(first, min(first + step, wanted.items))
        ]
        yield (b"," if first else b"") + msgspec.json.encode(rows)[1:-1]
    yield b"]}"


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _as_floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


class _Stepwise:
    """An iterator for coroutines that, unlike a generator, may be left unfinished."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        piece: Any = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        return piece
