"""What MCP clients can do with a node: each tool is a call or two of the Python client."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from node.client import Covey, OnProgress, Result
from node.errors import InputError
from node.runner.kinds import BadInputError, Items, kind_named
from protocols.errors import CoveyError

P = ParamSpec("P")
T = TypeVar("T")

INSTRUCTIONS: Final = (
    "covey pools this machine and its peers for inference. `models` says what can be run now, and"
    " for which kind. `run` does a job and waits for its result; `submit` returns at once, and the"
    " job is done even if this session ends: `result` waits for it."
)
MAX_ANSWER_BYTES: Final = 1 << 20  # it goes to a language model: 250,000 tokens
ARGUMENTS: Final = frozenset({"kind", "model", "input", "on_progress"})

Input = Annotated[
    list[str | list[dict[str, str]]],
    Field(
        description="One item each: a text; for generate also a chat, a list of {role, content};"
        " for kinds that take files (vad, detect) the file's bytes in base64.",
        min_length=1,
    ),
]
KindName = Annotated[
    str, Field(description="What to do, such as embed, generate, classify, vad, detect.")
]
ModelName = Annotated[str, Field(description="A name that `models` lists for this kind.")]
Options = Annotated[
    dict[str, Any] | None,
    Field(
        description="precision (fp32, bf16, int8, int4, or auto: the model's own), peer (an id of"
        " `peers`: only it may do the job), timeout_s, verify (how many other peers do it again, to"
        " compare), and the kind's own: for generate max_tokens, temperature, top_p, seed, stop."
    ),
]
JobId = Annotated[str, Field(description="The 32 hexadecimal digits that `submit` returned.")]


def mcp_server(covey: Covey) -> MCPServer:
    """Return a server whose tools use one node."""
    server: MCPServer = MCPServer(
        "covey", instructions=INSTRUCTIONS, version=version("covey"), log_level="WARNING"
    )
    tools = Tools(covey)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for ask in (tools.models, tools.peers, tools.status, tools.result, tools.job, tools.why):
        server.add_tool(ask, annotations=reads)
    for act in (tools.run, tools.submit):
        server.add_tool(act, annotations=ToolAnnotations(destructive_hint=False))
    server.add_tool(tools.cancel, annotations=ToolAnnotations(idempotent_hint=True))
    return server


def told(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Tell the model what went wrong and what to do about it, where that is known; and that, too,
    of an answer that is too large for it.
    """

    @functools.wraps(tool)
    async def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            answer = await tool(*args, **kwargs)
            await anyio.to_thread.run_sync(_check_size, answer)
            return answer
        except CoveyError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ToolError(f"{error.code}: {error.message}{hint}") from error

    return telling


class Tools:
    """The tools, by name; their docstrings are what models read."""

    def __init__(self, covey: Covey) -> None:
        self._covey = covey

    @told
    async def models(self) -> list[dict[str, Any]]:
        """List the models that the mesh offers now, with the kinds of job that each is for."""
        return await self._covey.models()

    @told
    async def peers(self) -> list[dict[str, Any]]:
        """List the peers of the mesh with their measured hardware and their models."""
        return await self._covey.peers()

    @told
    async def status(self) -> dict[str, Any]:
        """Say how this machine's node is."""
        return await self._covey.call("GET", "/status")

    @told
    async def run(
        self,
        kind: KindName,
        model: ModelName,
        input: Input,
        context: Context,
        options: Options = None,
    ) -> dict[str, Any]:
        """Do a job somewhere on the mesh and return its rows, one an item of the input.

        Calling it off ends the job.
        """
        items, wanted, tell = _items(kind, input), _wanted(options), _teller(context)
        result = await self._covey.run(kind, model=model, input=items, on_progress=tell, **wanted)
        return await anyio.to_thread.run_sync(_answer, result)

    @told
    async def submit(
        self, kind: KindName, model: ModelName, input: Input, options: Options = None
    ) -> dict[str, str]:
        """Have a job promised and return its id at once; it outlives this session."""
        items, wanted = _items(kind, input), _wanted(options)
        job = await self._covey.submit(kind, model=model, input=items, **wanted)
        return {"job_id": job.id}

    @told
    async def result(self, job_id: JobId, context: Context) -> dict[str, Any]:
        """Wait for a submitted job and return its rows, one an item of its input."""
        job = await self._covey.job(job_id)
        result = await job.result(on_progress=_teller(context))
        return await anyio.to_thread.run_sync(_answer, result)

    @told
    async def job(self, job_id: JobId) -> dict[str, Any]:
        """Say where a submitted job stands, or how it ended."""
        return await (await self._covey.job(job_id)).status()

    @told
    async def why(self, job_id: JobId) -> dict[str, Any]:
        """Say which peers were considered for a job, and why it went where it went."""
        return await (await self._covey.job(job_id)).why()

    @told
    async def cancel(self, job_id: JobId) -> dict[str, Any]:
        """End a job that is not over."""
        job = await self._covey.job(job_id)
        await job.cancel()
        return await job.status()


def _items(kind: str, input: Input) -> Items:
    """Return the items as the kind takes them."""
    return [_bytes(item) for item in input] if kind_named(kind).ITEM_TYPE is bytes else input


def _wanted(options: Options) -> dict[str, Any]:
    """Return the options, none of which is an argument of its own."""
    for name in options or {}:
        if name in ARGUMENTS:
            raise InputError(f"{name} is no option", hint="it is an argument of its own")
    return options or {}


def _bytes(item: Any) -> bytes:
    try:
        return base64.b64decode(item, validate=True)
    except (TypeError, ValueError) as error:
        raise BadInputError("this kind takes files: send their bytes in base64") from error


def _teller(context: Context) -> OnProgress:
    async def tell(progress: dict[str, Any]) -> None:
        worker = progress["worker"]
        message = f"{progress['state']}, by {worker}" if worker else progress["state"]
        await context.report_progress(progress["items_done"], progress["items_total"], message)

    return tell


def _answer(result: Result) -> dict[str, Any]:
    """Return a result as a tool answers it; raises ``CoveyError`` at the first row too many. Takes
    its time: not for the loop.
    """
    rows: list[dict[str, Any]] = []
    size_bytes = 0
    for row in result.rows():
        size_bytes += len(json.dumps(row))
        if size_bytes > MAX_ANSWER_BYTES:
            raise _too_large()
        rows.append(row)
    return {"rows": rows, "summary": dict(result.summary)}


def _check_size(answer: Any) -> None:
    if len(json.dumps(answer)) > MAX_ANSWER_BYTES:
        raise _too_large()


def _too_large() -> CoveyError:
    return CoveyError(
        f"the answer is larger than {MAX_ANSWER_BYTES >> 10} KiB",
        code="answer-too-large",
        hint="`submit` it in smaller jobs, or let `covey job result` or `covey run` write it to a"
        " file, or ask the HTTP API",
    )
