"""The part of the control API that is about kept jobs: submitted now, done whenever it can be."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from node.api.following import Following
from node.api.requests import job_of
from node.errors import InputError, UnknownError
from node.explanation import Explanation, moment, retold, untold
from node.job import check
from node.job_ids import WHOLE, job_named
from node.kept_jobs import Promise
from node.outlook import why_nobody
from peer.control import json_lines, raise_error
from protocols.errors import CoveyError

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.daemon import Node
    from node.kept_jobs import JobEnd, KeptJob, KeptJobs

MAX_LISTED: Final = 10_000


class JobsApi:
    """The handlers over one node's carrier."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._carrier = node.carrier

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/jobs", self.submit, methods=["POST"]),
            Route("/jobs", self.list),
            Route("/jobs/{job_id}", self.show),
            Route("/jobs/{job_id}/result", self.result),
            Route("/jobs/{job_id}/log", self.log),
            Route("/jobs/{job_id}/why", self.why),
            Route("/jobs/{job_id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> JSONResponse:
        """Promise to do a job: job and input are durable when this answers."""
        spec = await job_of(request, self._node)
        check(spec)
        promise = await self._carrier.submit(spec)
        job = await self._carrier.get(spec.job_id)
        end = await self._carrier.on_disk(partial(self._carrier.kept.ended, spec.job_id))
        directory = self._node.presence.directory
        return JSONResponse(
            {
                "job_id": spec.job_id.hex(),
                "is_new": promise is Promise.NEW,
                "is_tried_again": promise is Promise.AGAIN,
                "state": self._row(job, end)["state"],
                "waits_for": None if end else why_nobody(directory, spec.needs),
                "given_up_at": moment(job.deadline_us()),
            }
        )

    async def list(self, request: Request) -> JSONResponse:
        """The jobs that were submitted here, the newest first."""
        limit = _limit(request.query_params.get("limit", "100"))
        newest = await self._carrier.on_disk(partial(_newest, self._carrier.kept, limit))
        return JSONResponse([self._row(job, end) for job, end in newest])

    async def show(self, request: Request) -> JSONResponse:
        """One job: what was asked for, where it stands, and how it ended."""
        job_id = await self._job_id(request)
        job = await self._carrier.get(job_id)
        end = await self._carrier.on_disk(partial(self._carrier.kept.ended, job_id))
        progress = self._carrier.progress(job_id)
        return JSONResponse(
            {
                **self._row(job, end),
                "precision": job.spec.precision,
                "peer": job.spec.peer,
                "given_up_at": moment(job.deadline_us()),
                "tried_again_at": moment(job.tried_us) if job.tried_us else None,
                "ended_at": moment(end.ended_us) if end else None,
                "progress": msgspec.to_builtins(progress) if progress else None,
                "result": end.result if end else None,
                "error": end.error if end else None,
            }
        )

    async def result(self, request: Request) -> StreamingResponse:
        """Wait for a job's end; answer progress, output in pieces, then the result, as JSON
        lines.
        """
        job_id = await self._job_id(request)
        # unknown: an error, no line
        await self._carrier.get(job_id)
        wait_s = _wait_s(request.query_params.get("wait_s", "inf"))
        following = Following(streams=request.query_params.get("stream") == "true")
        return StreamingResponse(
            json_lines(self.followed(job_id, following, wait_s)), media_type="application/x-ndjson"
        )

    async def log(self, request: Request) -> JSONResponse:
        """What happened to a job, step by step, also under earlier daemons."""
        job_id = await self._job_id(request)
        await self._carrier.get(job_id)
        return JSONResponse(await self._carrier.log(job_id))

    async def why(self, request: Request) -> JSONResponse:
        """Why a job, kept or not, went where it went."""
        job_id = await self._job_id(request)
        kept, live = self._carrier.kept, self._carrier.explanation(job_id)
        try:
            job = await self._carrier.get(job_id)
        except UnknownError:
            if live is None:
                raise
            return JSONResponse(live.told())
        end = await self._carrier.on_disk(partial(kept.ended, job_id))
        steps = await self._carrier.log(job_id)
        return JSONResponse(self._why_kept(job, end, live, steps))

    def _why_kept(
        self,
        job: KeptJob,
        end: JobEnd | None,
        live: Explanation | None,
        steps: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Return why a kept job went where it went, over all of its tries. One that is over is
        explained by what was kept with it: its id may have been run again since.
        """
        row, job_id = self._row(job, end), job.spec.job_id
        last = end.why if end else live.told() if live else None
        told = {**untold(job_id.hex(), str(job.spec.needs)), **(last or {})}
        return {
            **retold(told, steps, row["state"]),
            "attempts": row["attempts"] or 0,
            "worker": row["worker"] or told["worker"],
            "reason": end.error["message"] if end and end.error else row["waits_for"],
        }

    async def cancel(self, request: Request) -> JSONResponse:
        """End a job that is not over; answers how it ended."""
        job_id = await self._job_id(request)
        end = await self._carrier.cancel(job_id)
        return JSONResponse({"job_id": job_id.hex(), "state": end.state})

    async def _job_id(self, request: Request) -> bytes:
        """Return the id that a request names, whole or by its beginning."""
        text = request.path_params["job_id"]
        if WHOLE.fullmatch(text):
            return job_named(text, ())
        kept = await self._carrier.on_disk(self._carrier.kept.ids)
        return job_named(text, [*kept, *self._carrier.explained()])

    def _row(self, job: KeptJob, end: JobEnd | None) -> dict[str, Any]:
        job_id = job.spec.job_id
        progress, reason = self._carrier.progress(job_id), self._carrier.reason(job_id)
        return {
            "job_id": job_id.hex(),
            "kind": job.spec.kind,
            "model": job.spec.model,
            "items": job.spec.items,
            "state": end.state if end else progress.state.value if progress else "waiting",
            "worker": _worker(end) if end else progress.worker if progress else None,
            "waits_for": reason.message if reason and not (end or progress) else None,
            "items_done": self._items_done(job, end),
            "attempts": end.attempts if end else self._carrier.attempts(job_id),
            "submitted_at": moment(job.submitted_us),
        }

    def _items_done(self, job: KeptJob, end: JobEnd | None) -> int:
        progress = self._carrier.progress(job.spec.job_id)
        is_done = end is not None and end.result is not None
        return job.spec.items if is_done else progress.items_done if progress and not end else 0

    async def followed(
        self, job_id: bytes, following: Following, wait_s: float = math.inf
    ) -> AsyncIterator[Any]:
        """Yield what becomes of a kept job, and its result, line by line."""
        scope = trio.CancelScope()
        self._node.nursery.start_soon(self._wait, job_id, following, scope, wait_s)
        try:
            with self._carrier.following(job_id, following.listener):
                while not following.is_over:
                    for line in await following.next_lines():
                        yield line
        finally:
            scope.cancel()

    async def _wait(
        self, job_id: bytes, following: Following, scope: trio.CancelScope, wait_s: float
    ) -> None:
        """Tell a client how the job ended, if it does so in time."""
        with scope:
            end: JobEnd | None = None
            with trio.move_on_after(wait_s):
                end = await self._carrier.wait(job_id)
            try:
                if end is None:
                    raise CoveyError(
                        f"the job is not over after {wait_s:g} s",
                        code="not-over",
                        hint="it goes on: ask again",
                    )
                if end.error is not None:
                    raise_error({"error": end.error})
                output = await self._carrier.on_disk(partial(self._carrier.kept.output, job_id))
            except CoveyError as error:
                following.failed(error)
            else:
                following.succeeded(output, end.result or {})


def _newest(kept: KeptJobs, limit: int) -> list[tuple[KeptJob, JobEnd | None]]:
    newest = sorted(kept.jobs(), key=lambda job: -job.submitted_us)[:limit]
    return [(job, kept.ended(job.spec.job_id)) for job in newest]


def _worker(end: JobEnd) -> str | None:
    return end.result["worker"] if end.result else None


def _wait_s(text: str) -> float:
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = math.nan
    if not wait_s >= 0:
        raise InputError("how long to wait is a number of seconds, 0 or more")
    return wait_s


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_LISTED:
        raise InputError(f"the limit is a number from 1 to {MAX_LISTED}")
    return int(text)
