"""Submit jobs from Python to this machine's node; runs under asyncio and trio, and without either.

::

    async with connect() as covey:
        job = await covey.submit("embed", model="all-minilm-l6-v2", input=["one", "two"])
        async for row in job:
            ...
        vectors = (await job.result()).array()

``submit`` returns once the node has promised the job: it is done although this program, the node
or a worker ends meanwhile. ``connect_sync`` is the same for scripts. Everything raises
``CoveyError``: ``DaemonDownError`` where no node answers, ``DaemonSilentError`` where it hangs, and
what a job failed with.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from node import requests
from node.job_ids import check_beginning
from node.requests import Delta, JobRequest
from node.runner.kinds import Items, Kind, kind_named
from peer.control import (
    ANSWER_S,
    CONNECT_TIMEOUT_S,
    ControlClient,
    DaemonDownError,
    closed_error,
    raise_error,
    silent,
)
from peer.home import Home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]

DAY_S: Final = 86_400.0
HINT: Final = "start the node with `covey up`"
ANSWER: Final = httpx.Timeout(ANSWER_S, connect=CONNECT_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Result:
    """An accepted result. ``summary`` has the worker, the attempts and the CIDs of its records."""

    kind: Kind
    output: bytes
    summary: Mapping[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one JSON object an item, such as ``{"index": 0, "embedding": [...]}``."""
        return self.kind.rows(self.output)

    def array(self) -> NDArray[np.float32]:
        """Return the result as an array, one row an item."""
        return self.kind.array(self.output)


@asynccontextmanager
async def connect(home: Path | None = None) -> AsyncGenerator[Covey]:
    """A connection to the node of ``home`` (default: ``$COVEY_HOME``, or where commands look)."""
    transport = httpx.AsyncHTTPTransport(uds=os.fspath(_socket(home)))
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://covey", timeout=timeout
    ) as http:
        yield Covey(http)


class Covey:
    """This machine's node, for coroutines. Made by ``connect``."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def submit(self, kind: str, *, model: str, input: Items, **options: Any) -> Job:
        """Have the node promise a job; job and input are on its disk when this returns.

        ``input`` is a list of texts, of bytes for kinds that take files, or for ``generate`` also
        of chats. ``options`` are those of ``covey job submit``: ``precision``, ``peer``,
        ``device``, ``min_memory_mb``, ``min_speed``, ``timeout_s``, ``verify``, ``job_id``, and the
        kind's parameters. The same ``job_id`` with
        the same job is the same job. With ``verify``, ``Result.summary["verification"]`` has the
        verdict of other peers.
        """
        request = _request(kind, model, input, options)
        answer = await self.call(
            "POST", "/jobs", content=request.input, params=requests.query_of(request)
        )
        return Job(self, answer["job_id"], kind_named(kind))

    async def run(
        self,
        kind: str,
        *,
        model: str,
        input: Items,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> Result:
        """Have a job done now, as ``covey run`` does, and return its result.

        Nothing is promised: it fails where nobody can do it now, and ends if this call is
        cancelled. ``options`` are those of ``submit``, ``on_progress`` is that of ``Job.result``.
        """
        request = _request(kind, model, input, options)
        query = requests.query_of(request)
        lines = self.lines("/run", method="POST", content=request.input, params=query)
        return Result(kind_named(kind), *await _collected(lines, on_progress, requests.RUN_AGAIN))

    async def job(self, job_id: str) -> Job:
        """Return a job that was submitted before, by its id or six or more digits of its
        beginning; raises ``CoveyError`` if there is none.
        """
        answer = await self.call("GET", f"/jobs/{check_beginning(job_id)}")
        return Job(self, answer["job_id"], kind_named(answer["kind"]))

    async def jobs(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return where the jobs stand that were submitted here, the newest first."""
        return await self.call("GET", "/jobs", params={"limit": limit})

    async def peers(self) -> list[dict[str, Any]]:
        """Return everyone whom the node knows, itself first."""
        return await self.call("GET", "/peers")

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that workers of the mesh offer now, with their kinds."""
        return await self.call("GET", "/models")

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Return the JSON answer of one request to the control API."""
        self._check_open()
        try:
            response = await self._http.request(method, path, timeout=ANSWER, **arguments)
        except httpx.TimeoutException as error:
            raise silent() from error
        except httpx.TransportError as error:
            raise _down() from error
        return raise_error(response.json())

    async def lines(
        self, path: str, *, method: str = "GET", **arguments: Any
    ) -> AsyncGenerator[Any]:
        """Yield an answer's JSON lines as they come; raises what one of them tells of."""
        self._check_open()
        last = None
        try:
            async with self._http.stream(method, path, **arguments) as response:
                async for line in response.aiter_lines():
                    yield (last := json.loads(line))
        except httpx.TransportError as error:
            raise _down() from error
        raise_error(last)

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise closed_error()


class Job:
    """A job that the node has promised. Iterating waits for its rows, or for more of its text."""

    def __init__(self, covey: Covey, job_id: str, kind: Kind) -> None:
        self.id = job_id
        self._covey = covey
        self._kind = kind

    async def result(
        self, timeout_s: float = math.inf, *, on_progress: OnProgress | None = None
    ) -> Result:
        """Wait for the job and return its result; raises what it failed with, and with the code
        ``not-over`` if that takes longer than ``timeout_s``. May be called again, also by another
        program, for as long as the node keeps it.

        Meanwhile ``on_progress`` is awaited with ``{"state", "worker", "items_done", "items_total",
        "attempt"}``.
        """
        lines = self._covey.lines(f"/jobs/{self.id}/result", params={"wait_s": timeout_s})
        return Result(self._kind, *await _collected(lines, on_progress, HINT))

    async def status(self) -> dict[str, Any]:
        """Return where the job stands, what it waits for, and how it ended."""
        return await self._covey.call("GET", f"/jobs/{self.id}")

    async def why(self) -> dict[str, Any]:
        """Return who was considered, with which speed, and what each said."""
        return await self._covey.call("GET", f"/jobs/{self.id}/why")

    async def logs(self) -> list[dict[str, Any]]:
        """Return what happened to the job so far, step by step."""
        return await self._covey.call("GET", f"/jobs/{self.id}/log")

    async def cancel(self) -> None:
        """End the job if it is not over."""
        await self._covey.call("POST", f"/jobs/{self.id}/cancel")

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the result's rows; or, for ``generate``, text as it comes: ``{"index", "text"}``
        continues the text of an item. ``{"index": 0, "text": "", "restart": True}`` says that all
        of it so far is void, for its worker was lost, and the next one computes otherwise.

        Raises as ``result`` does. Who breaks off leaves the job as it is: ``cancel`` ends it.
        """
        if self._kind.READER is None:
            for row in (await self.result()).rows():
                yield row
            return
        deltas, collected = requests.Deltas(self._kind.READER), requests.Collected()
        path = f"/jobs/{self.id}/result"
        async with aclosing(self._covey.lines(path, params={"stream": "true"})) as lines:
            async for event in lines:
                collected.add(event)
                for delta in deltas.add(event):
                    yield _told(delta)
        collected.outcome(HINT)


@contextmanager
def connect_sync(home: Path | None = None) -> Generator[SyncCovey]:
    """As ``connect``, for programs without coroutines."""
    with ControlClient(_socket(home), hint=HINT) as control:
        yield SyncCovey(control)


class SyncCovey:
    """This machine's node. Made by ``connect_sync``."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control

    def submit(self, kind: str, *, model: str, input: Items, **options: Any) -> SyncJob:
        """As ``Covey.submit``."""
        answer = requests.submit(self._control, _request(kind, model, input, options))
        return SyncJob(self._control, answer["job_id"], kind_named(kind))

    def job(self, job_id: str) -> SyncJob:
        """As ``Covey.job``."""
        answer = self._control.get(f"/jobs/{check_beginning(job_id)}")
        return SyncJob(self._control, answer["job_id"], kind_named(answer["kind"]))

    def run(self, kind: str, *, model: str, input: Items, **options: Any) -> Result:
        """As ``Covey.run``."""
        request = _request(kind, model, input, options)
        outcome = requests.run(self._control, request, lambda _: None)
        return Result(kind_named(kind), outcome.output, outcome.summary)

    def jobs(self, limit: int = 100) -> list[dict[str, Any]]:
        """As ``Covey.jobs``."""
        return self._control.get("/jobs", limit=limit)

    def peers(self) -> list[dict[str, Any]]:
        """As ``Covey.peers``."""
        return self._control.get("/peers")

    def models(self) -> list[dict[str, Any]]:
        """As ``Covey.models``."""
        return self._control.get("/models")


class SyncJob:
    """A job that the node has promised, as ``Job``."""

    def __init__(self, control: ControlClient, job_id: str, kind: Kind) -> None:
        self.id = job_id
        self._control = control
        self._kind = kind

    def result(self, timeout_s: float = math.inf) -> Result:
        """As ``Job.result``."""
        outcome = requests.result(self._control, self.id, lambda _: None, timeout_s=timeout_s)
        return Result(self._kind, outcome.output, outcome.summary)

    def status(self) -> dict[str, Any]:
        """As ``Job.status``."""
        return self._control.get(f"/jobs/{self.id}")

    def why(self) -> dict[str, Any]:
        """As ``Job.why``."""
        return self._control.get(f"/jobs/{self.id}/why")

    def logs(self) -> list[dict[str, Any]]:
        """As ``Job.logs``."""
        return self._control.get(f"/jobs/{self.id}/log")

    def cancel(self) -> None:
        """As ``Job.cancel``."""
        self._control.post(f"/jobs/{self.id}/cancel")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """As ``Job`` does."""
        if self._kind.READER is None:
            return self.result().rows()
        return map(_told, requests.follow(self._control, self.id, self._kind.READER))


async def _collected(
    lines: AsyncGenerator[Any], on_progress: OnProgress | None, hint: str
) -> tuple[bytes, Mapping[str, Any]]:
    """Return the output and the summary that an answer's lines come to."""
    collected = requests.Collected()
    async with aclosing(lines) as events:
        async for event in events:
            if on_progress is not None and "progress" in event:
                await on_progress(event["progress"])
            collected.add(event)
    outcome = collected.outcome(hint)
    return outcome.output, outcome.summary


def _told(delta: Delta) -> dict[str, Any]:
    told: dict[str, Any] = {"index": delta.index, "text": delta.text}
    return {**told, "restart": True} if delta.is_anew else told


def _request(kind: str, model: str, items: Items, options: Mapping[str, Any]) -> JobRequest:
    return requests.prepare(kind, items, {"timeout_s": DAY_S, **options, "model": model})


def _socket(home: Path | None) -> Path:
    environ = {"COVEY_HOME": os.fspath(home)} if home else os.environ
    return Home.of_node(environ).control_socket


def _down() -> DaemonDownError:
    return DaemonDownError("no node answers on its control socket, or it went away", hint=HINT)
