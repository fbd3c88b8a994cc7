"""What all routes share: the parts of the node that they use, bodies within bounds, and one job for
one request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio
from starlette.requests import Request
from starlette.types import Message

from node.api.following import Following, News
from node.api.openai.errors import ApiError
from node.api.room import Held, Room
from node.job import JobResult, JobSpec, Progress, summary_of
from node.submissions import Reports, Submissions
from node.submitted_job import Listener
from peer.directory import Directory
from protocols.errors import CoveyError

T = TypeVar("T")

MAX_API_BODY_BYTES: Final = 96 << 20  # 64 MiB of texts, in JSON with its quotes and escapes
MAX_PROMPT_BODY_BYTES: Final = 8 << 20  # the 1 MiB that a generate job takes, in \\u escapes
ASIDE_BYTES: Final = 256 << 10  # a millisecond or two of parsing: more leaves the loop
BODY_SILENCE_S: Final = 30.0  # a client that has begun a body and sends nothing more

PART_COST: Final = 16  # a byte of small parts of text takes so many times as long as one of JSON

CLIENT_GONE: Final = 499  # nobody reads it

_aside = trio.CapacityLimiter(2)


@dataclass(frozen=True, slots=True)
class Front:
    """The node as the API sees it."""

    directory: Directory
    submissions: Submissions
    new_job_id: Callable[[], bytes]
    check_may_submit: Callable[[], None]
    """Raises ``Refused`` where no worker would take this node's jobs."""
    now_us: Callable[[], int]
    report: Reports
    """Takes what was not foreseen."""
    timeout_s: float
    """For one request: its job's deadline."""
    room: Room = field(default_factory=Room)

    @property
    def budget_ms(self) -> int:
        """The time of one job."""
        return int(self.timeout_s * 1_000)

    async def run(self, request: Request, spec: JobSpec) -> JobResult:
        """Have a job done for a client whose body was read; its going away cancels the job.

        Raises what ``Submissions.run`` raises.
        """
        outcome: JobResult | CoveyError = _gone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, request, nursery.cancel_scope)
            try:
                outcome = await self.submissions.run(spec, Listener(_ignore))
            except CoveyError as error:
                outcome = error
            nursery.cancel_scope.cancel()
        if isinstance(outcome, CoveyError):
            raise outcome
        return outcome

    async def follow(
        self, request: Request, spec: JobSpec, tell: Callable[[News], Awaitable[None]]
    ) -> None:
        """As ``run``, and await ``tell`` with all that is new meanwhile, the output included; what
        it raises ends the job, too.
        """
        following = Following(streams=True)
        outcome: CoveyError | None = _gone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, request, nursery.cancel_scope)
            nursery.start_soon(self._submit, spec, following)
            try:
                while not following.is_over:
                    await tell(await following.next_news())
                outcome = None
            except CoveyError as error:
                outcome = error
            nursery.cancel_scope.cancel()
        if outcome is not None:
            raise outcome

    async def _submit(self, spec: JobSpec, following: Following) -> None:
        try:
            result = await self.submissions.run(spec, following.listener)
        except CoveyError as error:
            following.failed(error)
        else:
            following.succeeded(result.output, summary_of(spec, result))


async def aside(size_bytes: int, work: Callable[[], T]) -> T:
    """Do ``work`` over so many bytes: in a thread if the loop would feel it."""
    if size_bytes <= ASIDE_BYTES:
        return work()
    return await trio.to_thread.run_sync(work, limiter=_aside)


async def read_body(request: Request, held: Held, most: int | None = None) -> bytes:
    """Return a request's body; raises ``ApiError`` for one of more than ``most`` bytes (or
    ``MAX_API_BODY_BYTES``), before it is read if its header says so, and ``Refused`` when there is
    no room.
    """
    most = MAX_API_BODY_BYTES if most is None else most
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    pieces: list[bytes] = []
    while True:
        message = await _next_message(request)
        if message["type"] == "http.disconnect":
            raise _gone()
        piece = message.get("body", b"")
        held.grow(len(piece))
        if held.size_bytes > most:
            raise _too_large(most)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _next_message(request: Request) -> Message:
    with trio.move_on_after(BODY_SILENCE_S):
        return await request.receive()
    raise ApiError(408, f"nothing came for {BODY_SILENCE_S:.0f} s", code="body-timeout")


async def _watch(request: Request, scope: trio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _ignore(_: Progress) -> None:
    """Nobody watches: an answer comes whole."""


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {most >> 20} MiB: send several requests", code="too-big"
    )


def _gone() -> ApiError:
    return ApiError(CLIENT_GONE, "the client went away", code="client-gone")
