"""Jobs of kind ``embed`` at an upstream: texts in a few requests, vectors checked and packed as the
kind has them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import cbor2
import msgspec

from node.runner.kinds import embed
from node.runner_job import RunOutcome
from node.upstream.errors import broken
from node.upstream.job import UpstreamJob, sum_of
from node.upstream.models import UpstreamModel
from node.upstream.patience import Patience
from protocols.errors import JobFailed
from protocols.limits import (
    MAX_JOB_OUTPUT_BYTES,
    MAX_UPSTREAM_WHOLE_BYTES,
    UPSTREAM_EMBED_BYTES,
    UPSTREAM_EMBED_TEXTS,
)

if TYPE_CHECKING:
    from node.upstream.client import UpstreamClient

PATH: Final = "embeddings"
MAX_DIMENSION: Final = 1 << 16  # the largest models have 8,192


class _Row(msgspec.Struct, frozen=True):
    embedding: list[float]
    index: int


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Row]
    usage: _Usage | None = None


class Vectors(msgspec.Struct, frozen=True):
    """The vectors of some texts in their order, little-endian float32 each; ``tokens`` is None
    where the upstream doesn't count them.
    """

    rows: list[bytes]
    dimension: int
    tokens: int | None


async def run(job: UpstreamJob) -> RunOutcome:
    """Compute a job; raises ``JobFailed`` and ``BadInputError``."""
    texts = embed.decode_input(job.content)
    _check_size(len(texts), job.model.dimension)
    rows: dict[int, list[bytes]] = {}
    tokens: list[int | None] = []
    done = 0

    async def ask(start: int, some: Sequence[str]) -> None:
        nonlocal done
        vectors = await vectors_of(job.client, job.model.id, job.patience, some)
        if vectors.dimension != job.model.dimension:
            raise broken(f"vectors of length {vectors.dimension}, not {job.model.dimension}")
        rows[start] = vectors.rows
        tokens.append(vectors.tokens)
        done += len(some)
        job.on_progress(done, len(texts))

    await job.do(_calls(ask, texts))
    content = b"".join(row for start in sorted(rows) for row in rows[start])
    output = cbor2.dumps([embed.DTYPE, len(texts), job.model.dimension, content])
    return job.outcome(output, {"tokens": sum_of(tokens)})


async def vectors_of(
    client: UpstreamClient, model_id: str, patience: Patience, texts: Sequence[str]
) -> Vectors:
    """Return the vectors of ``texts``, by one request; raises ``JobFailed``."""
    body = msgspec.json.encode(
        {"model": model_id, "input": list(texts), "encoding_format": "float"}
    )
    async with client.ask(PATH, patience, body) as answer:
        return decode(await answer.whole(MAX_UPSTREAM_WHOLE_BYTES), len(texts))


def decode(body: bytes, count: int) -> Vectors:
    """Return the vectors of an answer about ``count`` texts; raises ``JobFailed`` unless there is
    one for each, all of one length and finite.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise broken(f"embeddings: {str(error)[:100]}") from None
    rows = {row.index: row.embedding for row in answer.data}
    if len(answer.data) != count or rows.keys() != set(range(count)):
        raise broken(f"{len(answer.data)} embeddings for {count} texts, or the wrong ones")
    dimension = len(rows[0])
    if not 0 < dimension <= MAX_DIMENSION:
        raise broken(f"vectors of length {dimension}")
    packed = [_packed(rows[index], dimension) for index in range(count)]
    tokens = answer.usage.prompt_tokens if answer.usage else None
    return Vectors(packed, dimension, tokens if tokens and tokens > 0 else None)


def _packed(vector: list[float], dimension: int) -> bytes:
    if len(vector) != dimension:
        raise broken(f"vectors of length {len(vector)} and {dimension}")
    try:
        packed = struct.pack(f"<{dimension}f", *vector)
    except (OverflowError, struct.error):
        packed = b""
    # so few float32 cannot overflow a float: their sum is finite if and only if all are
    if not packed or not math.isfinite(sum(vector)):
        raise broken("vectors with numbers that are not finite")
    return packed


def _calls(
    ask: Callable[[int, Sequence[str]], Coroutine[Any, Any, None]], texts: Sequence[str]
) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Yield a request for every few texts: so many as all servers take, and not too long."""
    start = size_bytes = 0
    for place, text in enumerate(texts):
        length = len(text.encode())
        is_long = place > start and size_bytes + length > UPSTREAM_EMBED_BYTES
        if is_long or place - start == UPSTREAM_EMBED_TEXTS:
            yield partial(ask, start, texts[start:place])
            start, size_bytes = place, 0
        size_bytes += length
    yield partial(ask, start, texts[start:])


def _check_size(count: int, dimension: int) -> None:
    size_bytes = 4 * count * dimension
    if size_bytes > MAX_JOB_OUTPUT_BYTES:
        raise JobFailed(
            f"the output would have {size_bytes} bytes, over the limit of {MAX_JOB_OUTPUT_BYTES}",
            code="output-too-big",
        )


async def probe(client: UpstreamClient, model: UpstreamModel, patience: Patience) -> int:
    """Return the dimension of a model, which one short text shows; raises ``JobFailed``."""
    return (await vectors_of(client, model.id, patience, ["covey"])).dimension
