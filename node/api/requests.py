"""What requests to the control API hold, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from node.asking import check_asked
from node.errors import InputError
from node.job import JobSpec
from node.job_ids import parse_job_id
from node.peer_ids import parse_peer_id
from node.requirements import Requirements
from protocols.job import JOB_ID_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.daemon import Node

T = TypeVar("T", bound=msgspec.Struct)

MAX_TIMEOUT_S: Final = 86_400.0


class JobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``POST /run`` and ``POST /jobs`` want besides the input in their body."""

    kind: str
    model: str
    items: int
    tokens: int = 0
    """How many it may write, of kinds that write tokens."""
    precision: str = "auto"
    device: str | None = None
    min_memory_mb: int | None = None
    min_speed: float | None = None
    peer: str | None = None
    timeout_s: float = 600.0
    verify: int = 0
    """How many other peers run it again, to compare, within the same time."""
    job_id: str | None = None
    """Chosen by the client: submitted again with it, a job is attached to and not done twice."""
    stream: bool = False
    """Whether the client of ``POST /run`` wants to see the output grow."""


async def job_of(request: Request, node: Node) -> JobSpec:
    """Return the job that a request asks for; raises ``InputError``, also where what is known of
    the model rules it out, and ``Refused`` where this node may not submit any.
    """
    node.check_may_submit()
    query = parse(dict(request.query_params), JobQuery)
    if not 0 < query.timeout_s <= MAX_TIMEOUT_S:
        raise InputError(
            f"the timeout is more than 0 and at most {MAX_TIMEOUT_S:.0f} seconds, "
            f"not {query.timeout_s:g}"
        )
    content = await request.body()
    check_asked(node.presence.directory, query.kind, query.model, content)
    return JobSpec(
        job_id=parse_job_id(query.job_id) if query.job_id else node.effects.token(JOB_ID_BYTES),
        kind=query.kind,
        model=query.model,
        precision=query.precision,
        input=content,
        items=query.items,
        tokens=query.tokens,
        budget_ms=int(query.timeout_s * 1_000),
        peer=parse_peer_id(query.peer) if query.peer is not None else None,
        verify=query.verify,
        requirements=Requirements(
            device=query.device,
            min_memory_mb=query.min_memory_mb,
            min_speed=query.min_speed,
        ),
    )


def wants_stream(request: Request) -> bool:
    """Whether the client wants to see the output grow; raises ``InputError``."""
    return parse(dict(request.query_params), JobQuery).stream


def parse(values: dict[str, Any], schema: type[T]) -> T:
    """Return the values as ``schema`` has them; raises ``InputError``."""
    try:
        return msgspec.convert(values, type=schema, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"the request is not understood: {error}") from error
